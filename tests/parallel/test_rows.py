"""A table cut among ranks gives the rows, the gradients and the training of one table."""

import pytest
import torch

from aiinfra.parallel.launch import RankFailed, launch
from aiinfra.train.histories import generate
from tests.parallel import pipelined
from tests.parallel.pipelined import WORLD

pytestmark = pytest.mark.program


@pytest.mark.parametrize("ids", [
    [[6, 0, 0, 3], [1, 6]],
    [[], [2, 2]],                                   # a rank that wants nothing
    [[0, 1], [0, 1], [1, 0]],                       # nobody wants the last ranks' rows
    [[6], [6], [6], [6], [6]],                      # 2 rows a rank: the last has none
])
def test_rows_and_gradients_are_those_of_one_table(ids):
    torch.manual_seed(0)
    table = torch.nn.Embedding(7, 2, dtype=torch.float64)
    whole = torch.zeros(7, 2, dtype=torch.float64)
    found = launch(pipelined.rows_of, len(ids), ids)
    for rank, mine in enumerate(ids):
        rows = table(torch.tensor(mine, dtype=torch.int64))
        assert torch.equal(found[rank]["rows"], rows)
        for one in mine:
            whole[one] += 1 + rank
    gradients = [one["gradient"] for one in found if one["gradient"] is not None]
    assert torch.equal(torch.cat(gradients), whole)


def test_an_id_is_asked_for_once():
    first, _ = launch(pipelined.rows_of, 2, [[5, 5, 5, 0, 0, 6], [1]])
    assert first["asked"] == [1, 2]


def test_an_id_outside_the_table_is_refused():
    with pytest.raises(RankFailed, match="ids reach from 1 to 7; the table has rows 0 to 6"):
        launch(pipelined.rows_of, 2, [[1, 7], [0]])


@pytest.mark.parametrize("ranks", [2, 3])
def test_training_is_that_of_one_process_with_and_without_overlap(ranks):
    steps, users = 3, 7
    model, losses, first = pipelined.make_model(), [], {}
    for seed in range(steps):
        loss = model.loss(generate(WORLD, users, seed))
        loss.backward()
        losses.append(float(loss.detach()))
        first = first or {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
        pipelined.descend(model)
    close = {"rtol": 0, "atol": 1e-10}
    for how in ("threads", "serial"):
        found = launch(pipelined.train, ranks, how, steps, users)
        for name, parameter in model.named_parameters():
            for here, want in (("gradients", first[name]), ("weights", parameter.detach())):
                parts = [rank[here][name] for rank in found]
                got = torch.cat(parts) if name == "embedding.weight" else parts[-1]
                torch.testing.assert_close(got, want, **close)
        for rank in found:
            torch.testing.assert_close(torch.tensor(rank["losses"]), torch.tensor(losses), **close)
