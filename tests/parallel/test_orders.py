"""Our tables are PyTorch's, action by action; and hold for numbers that it refuses."""

import pytest

from aiinfra.parallel.orders import SCHEDULES, make_table
from aiinfra.parallel.schedule import ScheduleError, check
from tests.parallel.torch_schedules import their_rows

CHUNKS = {"gpipe": (1,), "1f1b": (1,), "zbv": (2,)}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_actions_are_those_of_pytorch(name: str) -> None:
    compared = 0
    for chunks in CHUNKS.get(name, (1, 2, 3)):
        for ranks in (2, 3, 4):
            for microbatches in range(ranks, 13):
                try:
                    theirs = their_rows(name, ranks, microbatches, chunks)
                except ValueError:                                # not a multiple of its rounds
                    continue
                ours = make_table(name, ranks, microbatches, chunks)
                assert [[str(action) for action in row] for row in ours.rows] == theirs
                compared += 1
    assert compared >= 20


def test_any_number_of_micro_batches_goes_through() -> None:
    """The last step of a file has what is left: a prime number of them, or fewer than ranks."""
    for name in SCHEDULES:
        for chunks in CHUNKS.get(name, (1, 3)):
            for ranks in (1, 2, 4, 5):
                for microbatches in (1, 2, 3, 7, 11, 13):
                    table = make_table(name, ranks, microbatches, chunks)
                    check(table)
                    found = (table.ranks, table.stages, table.microbatches)
                    assert found == (ranks, ranks * chunks, microbatches)


@pytest.mark.parametrize("asked, why", [
    (("1F1B", 2, 4, None), "'1F1B' is not known; there are gpipe, 1f1b, interleaved_1f1b"),
    (("1f1b", 2, 4, 2), "1f1b has 1 stages a rank, not 2; interleaved_1f1b"),
    (("zbv", 2, 4, 3), "zbv has 2 stages a rank, not 3"),
    (("gpipe", 2, 0, None), "2 ranks, 0 micro-batches, 1 stages a rank: each must be at least 1"),
    (("gpipe", 0, 2, None), "0 ranks"),
    (("looped_bfs", 2, 2, 0), "0 stages a rank"),
])
def test_what_cannot_be_is_refused_with_its_figures(asked: tuple, why: str) -> None:
    with pytest.raises(ScheduleError, match=why):
        make_table(*asked)
