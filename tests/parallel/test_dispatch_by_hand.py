"""All-to-all by hand is PyTorch's, and tokens come home from their experts as one process computes them."""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from aiinfra.lab.threads import in_threads
from aiinfra.parallel.communicator import Communicator, in_processes
from aiinfra.parallel.dispatch_by_hand import all_to_all, through_experts


def rows_of(rank: int, count: int) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(rank), dtype=torch.float64)


def both_ways(comm: Communicator) -> tuple[Tensor, Tensor]:
    """Rank r sends r + to rows to rank `to`, none to rank 0."""
    counts = [(comm.rank + to) * (to > 0) for to in range(comm.size)]
    expected = [(source + comm.rank) * (comm.rank > 0) for source in range(comm.size)]
    rows = rows_of(comm.rank, sum(counts))
    theirs = rows.new_empty(sum(expected), 3)
    dist.all_to_all_single(theirs, rows, expected, counts)
    return torch.cat(all_to_all(rows.split(counts), comm)), theirs


@pytest.mark.program
@pytest.mark.parametrize("ranks", [2, 3])
def test_all_to_all_is_pytorchs(ranks: int) -> None:
    for ours, theirs in in_processes(both_ways, ranks):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("chosen", [
    [[0, 1, 2, 1], [2, 2, 0], [1, 0, 0, 0, 2]],
    [[1, 1, 1, 1], [1, 1, 1], [1, 1, 1, 1, 1]],
    [[0, 2], [], [0]]],
    ids=["all ways", "all to one", "a rank without tokens"])
def test_tokens_come_home_from_their_experts(chosen: list[list[int]]) -> None:
    def on_rank(comm: Communicator) -> Tensor:
        mine = chosen[comm.rank]
        factor = 10.0 ** comm.rank                              # what this rank's expert does
        x = rows_of(comm.rank, len(mine))
        return through_experts(x, torch.tensor(mine, dtype=torch.int64), lambda rows: rows * factor, comm)
    for rank, y in enumerate(in_threads(on_rank, 3)):
        factors = torch.tensor([10.0 ** expert for expert in chosen[rank]], dtype=torch.float64)
        assert torch.equal(y, rows_of(rank, len(factors)) * factors[:, None])
