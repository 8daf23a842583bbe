"""What a rank sends, by formula."""

import pytest

from aiinfra.perf.collectives import Link, Volume, all_gather, all_reduce, all_to_all, chain, point_to_point
from aiinfra.perf.collectives import reduce_scatter


@pytest.mark.parametrize("ranks", [1, 2, 3, 8, 100])
def test_an_all_reduce_is_a_reduce_scatter_and_an_all_gather(ranks):
    both = reduce_scatter(840, ranks) + all_gather(840, ranks)
    assert all_reduce(840, ranks).sent_bytes == pytest.approx(both.sent_bytes)
    assert all_reduce(840, ranks).messages == 2 * (ranks - 1)


def test_alone_nothing_is_sent():
    for formula in (all_reduce, all_gather, reduce_scatter, all_to_all):
        assert formula(100, 1) == Volume(calls=1)


def test_an_all_reduce_never_sends_more_than_twice_its_bytes():
    sent = [all_reduce(1.0, ranks).sent_bytes for ranks in range(2, 1000)]
    assert sent == sorted(sent)
    assert sent[0] == 1 and sent[-1] < 2


def test_a_chain_passes_it_on_but_for_the_last():
    assert chain(10, is_last=False) == point_to_point(10)
    assert chain(10, is_last=True) == Volume(calls=1)


def test_a_link_is_busy_for_messages_and_bytes():
    link = Link(latency_seconds=0.5, bytes_per_second=100.0)
    assert link.seconds(all_reduce(200, 2)) == 2 * 0.5 + 200 / 100
    assert link.seconds(2 * all_reduce(200, 2)) == 2 * link.seconds(all_reduce(200, 2))


@pytest.mark.parametrize("wrong", [{"latency_seconds": -1.0}, {"bytes_per_second": 0.0}])
def test_no_link_is_faster_than_nothing(wrong):
    right = {"latency_seconds": 0.0, "bytes_per_second": 1.0}
    with pytest.raises(ValueError, match="a latency is at least 0"):
        Link(**right | wrong)
