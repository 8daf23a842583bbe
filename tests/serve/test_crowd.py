"""Two hundred at once on a small model: who is accepted is answered, who leaves leaves nothing behind, and a
signal in the midst of it loses nobody."""

import asyncio
import signal
import time
from random import Random

import pytest

from tests.checkpoint.corpus_parts import chatml_folder
from tests.serve.crowd import Line, Tally, body_of, crowd
from tests.serve.small_server import Served, serving, wait_until

pytestmark = [pytest.mark.program, pytest.mark.alone]
PEOPLE = 200
SECONDS = 8.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return chatml_folder(tmp_path_factory.mktemp("crowd") / "small")


def start(folder):
    """A short queue, so that some are refused, and a small cache, so that some are preempted. PyTorch keeps
    what oneDNN makes for each number of rows, by hundreds of megabytes until it is full; here it keeps
    little, so that what grows is ours."""
    return serving(folder, "--max-queued-requests", "50", "--set", "cache_bytes=1000000",
                   ONEDNN_PRIMITIVE_CACHE_CAPACITY="8", LRU_CACHE_CAPACITY="8")


async def beside_slow_readers(served: Served, seconds: float) -> Tally:
    """A crowd, and eight who asked for much and do not read it until the crowd has gone."""
    tokens = 200
    slow = [Line(served, body_of(served, Random(seed), tokens, prompt=[1, 2], n=1, logprobs=20))
            for seed in range(8)]
    for line in slow:
        await line.ask(small_buffer=True)
    tally = await crowd(served, PEOPLE, seconds)
    for line in slow:
        await line.read_all()
        line.hang_up()
        if fault := line.fault(tokens):
            tally.wrong.append(f"a slow reader: {fault}")
    return tally


def test_a_crowd_is_answered_and_leaves_nothing_behind(folder) -> None:
    with start(folder) as served:
        asyncio.run(crowd(served, PEOPLE, seconds=3))          # what is made once is made
        assert wait_until(served.is_idle)
        before = served.resident_bytes()
        tally = asyncio.run(beside_slow_readers(served, SECONDS))
        assert tally.wrong == []
        assert tally.closed == 0 and min(tally.done, tally.left, tally.refused) > 10, tally
        assert served.metric("vllm:num_preemptions_total") > 0
        assert wait_until(served.is_idle)
        assert served.resident_bytes() < before + 20e6
        assert "Traceback" not in served.errors.read_text()


async def with_a_signal(served: Served, seconds: float) -> Tally:
    people = asyncio.create_task(crowd(served, PEOPLE, seconds))
    await asyncio.sleep(seconds / 2)
    served.process.send_signal(signal.SIGTERM)
    return await people


def test_a_signal_loses_nobody_and_a_second_one_ends_at_once(folder) -> None:
    with start(folder) as served:
        tally = asyncio.run(with_a_signal(served, seconds=4))
        assert tally.wrong == []
        assert tally.done > 20 and tally.closed > 20, tally
        assert served.process.wait(10) == 0
        assert "Traceback" not in served.errors.read_text()
    with serving(folder, "--drain-seconds", "60") as served:
        served.process.send_signal(signal.SIGTERM)
        assert wait_until(lambda: served.get("/ready").status == 503)
        assert served.process.poll() is None
        begun = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(10) == 128 + signal.SIGTERM and time.monotonic() - begun < 2
