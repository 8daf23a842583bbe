"""Two replicas behind a router that nobody here wrote: what is killed, started again, and sent where."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.peers import program
from tests.serve.replicas import Replica, free_port, load, running, small_folder, steady, wait_for

from aiinfra.bench.trace import TraceRequest

pytestmark = [pytest.mark.program, pytest.mark.alone]
# A replica that shuts down refuses for longer than a router takes to look at it.
LOOK, DRAIN = "1", "3"
CACHE = "cache_bytes=1_800_000"            # of each replica: about 4,700 tokens, nine of the beginnings


@pytest.fixture(scope="module", params=["sglang-router", "vllm-router"])
def kind(request) -> str:
    program(request.param)
    return request.param


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return small_folder(tmp_path_factory.mktemp("routers") / "small")


@pytest.fixture(scope="module")
def replicas(kind: str, folder: Path) -> Iterator[list[Replica]]:
    both = [Replica(folder, "--drain-seconds", DRAIN, "--set", CACHE).start() for _ in range(2)]
    try:
        for one in both:
            wait_for(f"{one.url}/ready")
        yield both
    finally:
        for one in both:
            one.end(signal.SIGKILL)


@contextmanager
def router(kind: str, replicas: list[Replica], policy: str) -> Iterator[str]:
    """The address of a router with this policy: the README's command."""
    port, metrics = free_port(), free_port()
    launch = {"sglang-router": ["launch"], "vllm-router": []}[kind]
    command = [program(kind), *launch, "--worker-urls", *(one.url for one in replicas), "--policy", policy,
               "--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(metrics),
               "--health-check-endpoint", "/ready", "--health-check-interval-secs", LOOK,
               "--health-failure-threshold", "1", "--health-success-threshold", "1"]
    url = f"http://127.0.0.1:{port}"
    with running(command, f"{url}/v1/models"):
        yield url


def test_a_stream_is_not_kept_back(kind: str, replicas: list[Replica], folder: Path) -> None:
    with router(kind, replicas, "round_robin") as url:
        [one] = load(url, [TraceRequest(list(range(9)), 200)], folder.name)
    assert one.answered and len(set(one.at_seconds)) > 50, "many reads"
    assert one.first_token_seconds < one.total_seconds / 4, "the first long before the last"


def test_who_is_killed_fails_alone(kind: str, replicas: list[Replica], folder: Path) -> None:
    """Under load: who fails was being answered when it happened; who comes later is served by the other."""
    killed: list[float] = []

    def kill() -> None:
        killed.append(time.monotonic())
        replicas[0].end(signal.SIGKILL)
    with router(kind, replicas, "round_robin") as url:
        begun = time.monotonic()
        heard = load(url, steady(8, 10, made=100), folder.name, {2.5: kill})
        replicas[0].start()
        wait_for(f"{replicas[0].url}/ready")
    at = killed[0] - begun
    failed = [one for one in heard if not one.answered]
    print(f"{kind}: {len(failed)} of {len(heard)} failed", {one.failure for one in failed})
    assert all(one.sent_seconds < at + 0.1 for one in failed), "only what it was answering"
    assert failed and len(failed) < len(heard) / 4, "the kill came in the middle of answers"
    assert sum(one.answered for one in heard if one.sent_seconds > at) > 40


def test_a_rolling_restart_loses_nothing(kind: str, replicas: list[Replica], folder: Path) -> None:
    statuses: list[int] = []

    def restart() -> None:
        for one in replicas:
            statuses.append(one.end(signal.SIGTERM))
            one.start()
            wait_for(f"{one.url}/ready")
            time.sleep(2.5 * float(LOOK))                  # until the router has noticed
    with router(kind, replicas, "round_robin") as url:
        heard = load(url, steady(45, 5, made=60), folder.name, {2.0: restart})
    failed = {one.failure for one in heard if not one.answered}
    print(f"{kind}: {len(heard)} requests", failed)
    assert not failed and statuses == [0, 0]


def test_who_begins_alike_is_sent_where_the_cache_is(kind: str, replicas: list[Replica],
                                                     folder: Path) -> None:
    """Eleven beginnings of 160 words, asked for six times, all together: more than one replica holds, fewer
    than two. By turns, each goes to the other replica the next time, for eleven is odd."""
    rates = {}
    for policy, first in (("round_robin", 0), ("cache_aware", 11)):
        trace = []
        for turn in range(6):
            for group in range(11):
                mine = first + group
                words = [(mine * 7 + i * (mine + 3)) % 32 for i in range(160)]
                trace.append(TraceRequest([*words, turn, group], 16, 4 * turn + group / 50))
        before = counts(replicas)
        with router(kind, replicas, policy) as url:
            heard = load(url, trace, folder.name)
        assert all(one.answered for one in heard)
        hits, queries = (now - then for now, then in zip(counts(replicas), before))
        rates[policy] = hits / queries
    print(kind, rates)
    assert rates["cache_aware"] > rates["round_robin"] + 0.1


def counts(replicas: list[Replica]) -> tuple[float, float]:
    """Tokens found in the caches, and looked for."""
    return tuple(sum(one.metric(f"vllm:prefix_cache_{name}_total") for one in replicas)
                 for name in ("hits", "queries"))
