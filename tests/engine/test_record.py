"""What a step says of itself: who ran, what it cost, who waits."""

import time

from tests.engine.small_model import engine_with

from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.model import Transformer


def test_records_say_what_happened(small: Transformer) -> None:
    engine = engine_with(small, 40, token_budget=8, max_running=2)
    engine.add("a", list(range(10)), SamplingParams(temperature=0, max_tokens=2))
    first, second = engine.step(), engine.step()
    assert first.ran == (("a", 0, 8),) and first.made == () and first.admitted == ("a",)
    assert second.ran == (("a", 8, 2),) and second.made[0].request_id == "a"
    assert first.free_blocks + first.cached_blocks + first.used_blocks == 40
    assert first.plan_seconds >= 0 and first.model_seconds > 0


def slower(call, seconds: float):
    def slowed(*args):
        time.sleep(seconds)
        return call(*args)
    return slowed


def test_the_three_times_of_a_step_add_up(small: Transformer, monkeypatch) -> None:
    engine = engine_with(small, 40)
    for part, seconds in (("scheduler.plan", 0.02), ("runner.run", 0.04), ("answers.commit", 0.06)):
        owner, leaf = part.split(".")
        holder = getattr(engine, owner)
        call = getattr(holder, leaf)
        monkeypatch.setattr(holder, leaf, slower(call, seconds))
    engine.add("a", [1, 2], SamplingParams(temperature=0, max_tokens=3))
    engine.step()
    start = time.perf_counter()
    record = engine.step()
    took = time.perf_counter() - start
    assert record.plan_seconds >= 0.02 and record.model_seconds >= 0.04 and record.sample_seconds >= 0.06
    assert record.plan_seconds + record.model_seconds + record.sample_seconds <= took


def test_records_count_who_waits(small: Transformer) -> None:
    engine = engine_with(small, 40, max_running=1)
    for name in "abc":
        engine.add(name, [1, 2], SamplingParams(temperature=0, max_tokens=2))
    assert [record.waiting for record in engine.stream()] == [2, 2, 1, 1, 0, 0]
