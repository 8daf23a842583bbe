"""Experts on other ranks compute what one process computes, however tokens choose."""

import pytest
import torch

from aiinfra.parallel.launch import launch
from tests.parallel import expert_ranks
from tests.parallel.small import assert_equal_to


@pytest.mark.parametrize("ranks", [2, 4])
def test_rows_travel_there_and_back(ranks):
    got = launch(expert_ranks.there_and_back, ranks, 5)
    last = ranks - 1
    assert len(got[0]) == 0 and len(got[last]) == last * sum(range(ranks))
    assert got[last][:last] == [100.0 + sum(to for to in range(last)) + i for i in range(last)]


@pytest.mark.parametrize("load", expert_ranks.LOADS)
@pytest.mark.parametrize("counts, sizes", [
    ([5, 3], {"ep": 2}), ([4, 0, 1, 7], {"ep": 4}), ([4, 0, 1, 7], {"dp": 2, "ep": 2})],
    ids=["ep 2", "ep 4", "dp 2, ep 2"])
def test_a_layer_is_that_of_one_process(load, counts, sizes):
    chosen = 1 if load == "all to one" else 2
    outputs, gradients = expert_ranks.one_layer(load, chosen, counts)
    told = launch(expert_ranks.layer_on_ranks, len(counts), load, chosen, counts, sizes)
    for (y, found, of_tokens), wanted in zip(told, outputs):
        torch.testing.assert_close(y, wanted)
        assert of_tokens.shape == y.shape
        assert_equal_to(found, gradients)
    if load != "as it comes":                          # experts that nobody chose have zeros, not nothing
        empty = gradients["experts.down.weight"].flatten(1).abs().sum(1) == 0
        assert empty.sum() >= 4


@pytest.mark.parametrize("sizes", [{"ep": 2}, {"dp": 2, "ep": 2}], ids=["ep 2", "dp 2, ep 2"])
def test_steps_are_those_of_one_process(sizes):
    """Router, shared expert, balance loss, and a bias that moves alike on all ranks, once a step."""
    gradients, biases = expert_ranks.steps_alone(4)
    told = launch(expert_ranks.steps_on_ranks, len(sizes) * 2 if "dp" in sizes else 2, 4, sizes)
    assert biases[0].any()
    for found, moved in told:
        assert_equal_to(found, gradients)
        assert all(torch.equal(mine, wanted) for mine, wanted in zip(moved, biases))


def test_a_rank_without_requests_joins_the_others():
    prompts = [[[5, 9, 2], [7] * 9], [], [[1, 2, 3, 4]]]
    told = launch(expert_ranks.serve_on_ranks, 2, [prompts[0], prompts[1]])
    assert told[0][0] == expert_ranks.serve_alone(prompts[0]) and told[0][1] == 0
    assert told[1][0] == [] and told[1][1] >= 8
    told = launch(expert_ranks.serve_on_ranks, 2, [prompts[0], prompts[2]])
    assert told[0][0] == expert_ranks.serve_alone(prompts[0])
    assert told[1][0] == expert_ranks.serve_alone(prompts[2])


def test_what_cannot_be_divided_is_refused():
    indivisible, dense = launch(expert_ranks.refusals, 3)[0]
    assert indivisible.startswith("4 experts cannot be divided among ep=3 ranks")
    assert dense == "a mesh with ep=3 and a model without experts: give those ranks to dp."
