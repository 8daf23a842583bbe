"""The parts of a step are called by their names, and nothing that measures them stays behind."""

import time

import pytest

from aiinfra.bench import steps
from aiinfra.bench.load import EngineServer, replay
from aiinfra.bench.trace import TraceRequest
from aiinfra.engine.engine import Engine
from aiinfra.model import Transformer


def test_each_part_of_a_step_is_called_by_its_name(model: Transformer, monkeypatch) -> None:
    def slower(owner: object, name: str, milliseconds: int) -> None:
        work = getattr(owner, name)

        def first_sleep(*args: object, **options: object) -> object:
            time.sleep(milliseconds / 1e3)
            return work(*args, **options)
        monkeypatch.setattr(owner, name, first_sleep)
    engine = Engine(model)
    slower(engine.scheduler, "plan", 10)
    slower(engine.runner, "_step_kv", 20)
    slower(model.lm_head, "forward", 40)
    slower(engine.answers, "draw", 80)
    monkeypatch.setattr(steps, "STEPS", 3)
    parts = steps.split_steps(engine, 1, 0)
    for name, seconds in {"plan": 0.01, "inputs": 0.02, "model": 0.04, "sampling": 0.08}.items():
        assert getattr(parts, name) >= seconds, name


def test_engine(small, monkeypatch) -> None:
    monkeypatch.setattr(steps, "STEPS", 4)
    rows = {row.name: row for row in steps.bench_engine("small")}
    assert len(rows) == 15
    for batch in (1, 8, 32):
        parts = [rows[f"batch {batch}: {part}"].ours for part in ("plan", "inputs", "model", "sampling")]
        assert min(parts) > 0
        outside = rows[f"   outside the model, batch {batch}"]
        assert outside.target == ("C6" if batch == 32 else "")
        assert outside.ours == pytest.approx(100 * (1 - parts[2] / sum(parts)))


def test_the_clock_is_taken_away_again(model: Transformer) -> None:
    with steps._clock(model) as seconds:
        replay(EngineServer(Engine(model)), [TraceRequest([1, 2], 3)])
    assert len(seconds) == 6, "3 steps, each of hidden and lm_head"
    assert (
        "hidden" not in vars(model)
        and not model.lm_head._forward_hooks
        and not model.lm_head._forward_pre_hooks
    )
