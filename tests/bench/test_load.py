"""A replay can lie in many ways: other work, another clock, a prefix shared by accident. Each is a test
here."""

import random

import pytest
from tests.bench.servers import TRACE, Clerk, tokens_run

from aiinfra.bench.load import EngineServer, decoding, replay
from aiinfra.bench.trace import TraceRequest
from aiinfra.engine.engine import Engine
from aiinfra.model import Transformer


def test_our_engine_finds_nothing_in_its_prefix_cache(model: Transformer) -> None:
    server = EngineServer(Engine(model, block_size=1))
    replay(server, TRACE)
    assert tokens_run(server) == sum(len(r.prompt) + r.output_tokens - 1 for r in TRACE)


def test_waiting_counts_from_the_arrival() -> None:
    clerk = Clerk()
    answers = replay(
        clerk, [TraceRequest([1], 5, 0.05), TraceRequest([1], 20, 0.0), TraceRequest([1], 2, 0.4)]
    )
    assert clerk.came == [1, 0, 2], "in order of arrival, not of the file"
    assert [len(a.tokens) for a in answers] == [5, 20, 2] and len(answers[1].gaps_seconds) == 19
    assert answers[1].first_token_seconds >= 0.01 and min(answers[1].gaps_seconds) >= 0.01
    assert answers[0].first_token_seconds >= 0.15, "it waited until the other was served"
    assert answers[2].at_seconds[0] >= 0.4, "nobody is served before it comes"
    assert all(a.total_seconds == pytest.approx(a.first_token_seconds + sum(a.gaps_seconds)) for a in answers)


def test_a_busy_server_is_not_excused() -> None:
    """Who comes in the middle of a step has waited since then, not only since the step's end."""
    _, late = replay(Clerk(seconds=0.1), [TraceRequest([1], 1), TraceRequest([1], 1, 0.05)])
    assert late.arrival_seconds == 0.05 and late.first_token_seconds > 0.14, (
        "50 ms until the server looks, 100 ms of work"
    )


def test_other_work_is_refused() -> None:
    with pytest.raises(RuntimeError, match="clerk made 3 tokens for request 0, which asked for 2"):
        replay(Clerk(extra=1), [TraceRequest([1], 2)])


@pytest.mark.parametrize("setting", [{"max_running": 8}, {"mode": "one"}, {"cache_bytes": 60 * 16 * 256}])
def test_a_batch_that_does_not_run_is_not_measured(setting: dict, model: Transformer) -> None:
    engine = Engine(model, **setting)
    with pytest.raises(
        ValueError,
        match="10 requests do not run side by side with mode=.*, max_running=.* blocks of cache. Use",
    ):
        decoding(engine, 10, 128, 40, random.Random(0))
    assert engine.unfinished == 10 or "cache_bytes" in setting, (
        "where places are short, nobody was served to the end first"
    )


def test_guesses_that_come_true_end_no_bystander(model: Transformer) -> None:
    engine = Engine(model, speculative="prompt_lookup")
    decoding(engine, 1, 8, 10, random.Random(0))
    assert engine.scheduler.running[0].max_tokens == 10 * (1 + engine.proposer.k)
