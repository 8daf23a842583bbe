"""Ranks compare what they are before they exchange anything else."""

import threading

import pytest
import torch.distributed as dist

from aiinfra.parallel.agree import Disagreement, RanksMissing, differences, meet, versions


def together(*configurations):
    """`meet` by one thread a rank; what each raised, or None."""
    store = dist.HashStore()
    raised = [None] * len(configurations)

    def take_part(rank):
        try:
            meet(store, rank, len(configurations), configurations[rank], timeout_seconds=20)
        except RuntimeError as error:
            raised[rank] = error
    threads = [threading.Thread(target=take_part, args=(rank,)) for rank in range(len(configurations))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_equal_ranks_agree():
    assert together({"steps": 3}, {"steps": 3}) == [None, None]


@pytest.mark.parametrize("other, words", [
    ({"steps": 4}, "rank 2 has steps=4 where rank 0 has 3"),
    ({"steps": 3, "seed": 1}, "rank 2 has seed=1 where rank 0 has None"),
    ({"steps": 3, "torch": "1.0"}, "rank 2 has torch='1.0' where rank 0 has '"),
    ({"steps": 3, "library": "older"}, "rank 2 has library='older' where rank 0 has '"),
])
def test_the_rank_that_differs_is_named_by_all(other, words):
    raised = together({"steps": 3}, {"steps": 3}, other)
    assert all(isinstance(error, Disagreement) and words in str(error) for error in raised), raised


def test_who_is_waited_for_is_named():
    with pytest.raises(RanksMissing, match="waited 0 s for 2 ranks of 3: 0, 2. Start them"):
        meet(dist.HashStore(), 1, 3, {}, timeout_seconds=0.2)


def test_versions_are_of_all_that_computes():
    assert set(versions()) == {"Python", "torch", "library"}
    assert differences(versions(), versions()) == []
