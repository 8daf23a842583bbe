"""A long row on several ranks: attention, loss and gradients of one process; the same work for each rank."""

import pytest
import torch

from aiinfra.parallel.context import Zigzag, blocks_between
from aiinfra.parallel.launch import launch
from tests.parallel import context_ranks
from tests.parallel.small import VARIANTS

ROWS = [(32,), (5, 27), (16, 16), (1, 1, 30), (3, 9, 2, 18), (8,) * 4, (1,) * 32]


@pytest.mark.program
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("lengths", [(32,), (3, 9, 2, 18), (1, 1, 30), (1,) * 32])
def test_a_ring_attends_as_one_process(ranks: int, lengths: tuple[int, ...]) -> None:
    """Documents end before, at and behind a chunk's border; forward and backward."""
    launch(context_ranks.ring_attention, ranks, lengths)


@pytest.mark.program
def test_a_ring_of_one_and_of_an_odd_number() -> None:
    launch(context_ranks.ring_attention, 1, (7, 3))
    launch(context_ranks.ring_attention, 3, (20, 4), heads=(3, 3))


@pytest.mark.program
@pytest.mark.parametrize("ranks, variant", [(2, "tied"), (4, "biases and qk norm")])
def test_loss_and_gradients_are_those_of_one_process(ranks: int, variant: str) -> None:
    """51 tokens, which no ring divides."""
    launch(context_ranks.equal_one_process, ranks, variant, (30, 1, 14, 6))


@pytest.mark.program
@pytest.mark.parametrize("variant, sequence", [("plain", False), ("tied", True)])
def test_on_a_mesh_with_tensor_parallel(variant: str, sequence: bool) -> None:
    assert variant in VARIANTS
    launch(context_ranks.with_tensor_parallel, 4, variant, sequence)


@pytest.mark.program
def test_in_bfloat16_a_ring_is_as_exact_as_one_process() -> None:
    ring, alone = launch(context_ranks.bfloat16, 2, (40, 23))[0]
    assert ring < 2 * alone + 1e-3


@pytest.mark.parametrize("lengths", ROWS)
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_blocks_are_exactly_what_a_causal_mask_lets_through(lengths: tuple[int, ...], ranks: int) -> None:
    """Every pair of a query and a key once, on the rank that has the query; none beyond."""
    borders = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    allowed = (document[:, None] == document[None, :]).tril()
    zigzag, seen = Zigzag(32, ranks), torch.zeros(32, 32, dtype=torch.int64)
    for rank in range(ranks):
        for other in range(ranks):
            for block in blocks_between(zigzag, borders, rank, other):
                rows, keys = zigzag.rows(rank)[block.rows], zigzag.rows(other)[block.keys]
                met = torch.ones(len(rows), len(keys), dtype=torch.int64)
                if block.lengths is not None:
                    assert torch.equal(rows, keys)
                    met = torch.block_diag(*[met[:n, :n].tril() for n in block.lengths])
                assert int(met.sum()) == block.scores
                seen[rows[:, None], keys[None, :]] += met
    assert torch.equal(seen, allowed.long())


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_a_long_document_is_the_same_work_for_every_rank_at_every_step(ranks: int) -> None:
    zigzag, N = Zigzag(64 * ranks, ranks), 64 * ranks
    work = [[sum(block.scores for block in blocks_between(zigzag, [0, N], rank, (rank - step) % ranks))
             for rank in range(ranks)] for step in range(ranks)]
    assert all(len(set(step)) == 1 for step in work)
    assert sum(map(sum, work)) == N * (N + 1) // 2


@pytest.mark.program
def test_a_row_that_cannot_be_cut_is_refused_with_the_figures() -> None:
    with pytest.raises(ValueError, match="1,001 tokens cannot be cut into 2 × 4 ranks = 8 chunks"):
        Zigzag(1001, 4)
    assert "a row of 51 tokens" in launch(context_ranks.not_filled_up, 2, (30, 1, 14, 6))[0]
