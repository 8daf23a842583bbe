"""A load that waits for nobody: a stall of the server is everybody's who arrives meanwhile."""

import asyncio

import pytest

from aiinfra.bench.http import Endpoint, HttpServed
from aiinfra.bench.open_loop import closed_loop, open_loop, random_patience
from aiinfra.bench.trace import TraceRequest
from aiinfra.perf import percentile
from tests.bench.fake_server import Fake, FakeTransport, run_virtually, served


async def heard_from(endpoint: Endpoint, kind, trace: list[TraceRequest], *args: object) -> list[HttpServed]:
    heard: dict[int, HttpServed] = {}
    async with endpoint:
        await kind(endpoint, trace, heard.__setitem__, *args)
    return [heard[i] for i in range(len(trace))]


def loop(fake: Fake, kind, trace: list[TraceRequest], *args: object) -> list[HttpServed]:
    """Without a network, on a virtual clock."""
    endpoint = Endpoint("http://fake", transport=FakeTransport(fake))
    return run_virtually(heard_from(endpoint, kind, trace, *args))


def test_a_stall_is_seen_by_the_open_loop_and_hidden_by_the_closed_one() -> None:
    """100 requests a second for 12 s; for one of them the server stands still."""
    trace = [TraceRequest([i], 1, i / 100) for i in range(1200)]
    stalls = {"first": 0.005, "stall_at": 1.0, "stall": 1.0}
    opened = [one.first_token_seconds for one in loop(Fake(**stalls), open_loop, trace)]
    closed = [one.first_token_seconds for one in loop(Fake(**stalls), closed_loop, trace, 4)]
    assert sum(wait > 0.01 for wait in opened) == pytest.approx(100, abs=2), "who came in that second"
    assert sum(wait > 0.01 for wait in closed) == 4, "one long wait for each user"
    assert percentile(opened, 99) > 0.8 and percentile(closed, 99) == pytest.approx(0.005)
    assert percentile(opened, 50) == pytest.approx(0.005)


def test_times_count_from_when_it_should_have_been_sent() -> None:
    """One place only, 20 ms a request, one every 10 ms: each waits 10 ms longer than the one before."""
    trace = [TraceRequest([i], 1, i / 100) for i in range(20)]
    heard = loop(Fake(first=0.02, places=1), open_loop, trace)
    assert [one.first_token_seconds for one in heard] == pytest.approx([0.02 + i / 100 for i in range(20)])
    assert [one.sent_seconds for one in heard] == pytest.approx([i / 100 for i in range(20)]), "nobody waited"


def test_a_generator_that_is_late_hides_nothing() -> None:
    """Something keeps the loop busy for 0.3 s while a request is due: its wait counts from when it was."""
    async def late(endpoint: Endpoint, trace, answered) -> None:
        asyncio.get_running_loop().call_later(0.05, hold)
        await open_loop(endpoint, trace, answered)

    def hold() -> None:
        asyncio.get_running_loop().virtual += 0.3

    [one] = loop(Fake(first=0.02), late, [TraceRequest([1], 1, 0.1)])
    assert one.sent_seconds == pytest.approx(0.35) and one.first_token_seconds == pytest.approx(0.27)


def test_no_request_waits_in_here_for_a_connection() -> None:
    fake = Fake(first=0.5)
    trace = [TraceRequest([i], 1, 0.0) for i in range(150)]
    with served(fake) as url:
        heard = asyncio.run(heard_from(Endpoint(url), open_loop, trace))
    assert fake.most == 150 and all(one.answered for one in heard)


def test_users_keep_to_their_number() -> None:
    fake = Fake(first=0.01)
    heard = loop(fake, closed_loop, [TraceRequest([i], 2) for i in range(12)], 3)
    assert fake.most == 3 and [one.arrival_seconds for one in heard[::3]] == pytest.approx([0, .01, .02, .03])


def test_who_leaves_does_not_stop_the_others() -> None:
    trace = [TraceRequest([i], 10, 0.0) for i in range(10)]
    heard = loop(Fake(gap=0.02), open_loop, trace, [0.05, None] * 5)
    assert [one.hung_up for one in heard] == [True, False] * 5
    assert all(one.answered for one in heard[1::2])


def test_patience_is_drawn() -> None:
    drawn = random_patience(1000, 0.5, 2.0, seed=3)
    leave = [seconds for seconds in drawn if seconds is not None]
    assert 440 < len(leave) < 560 and 0.9 < sum(leave) / len(leave) < 1.1 and max(leave) <= 2.0
    assert drawn == random_patience(1000, 0.5, 2.0, seed=3)
    assert random_patience(3, 0.0, 2.0) == [None] * 3
    with pytest.raises(ValueError, match="between 0 and 1"):
        random_patience(3, 1.5, 2.0)
