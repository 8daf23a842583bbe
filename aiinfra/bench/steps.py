"""`python -m aiinfra bench engine`: where the time of a decode step goes.

    batch 32   │ plan │ inputs │ model ······································ │ sampling │     one decode step

Python's share must stay small against the model's. All are parts of the same steps of one engine. Notebooks
12 and 14.
"""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import Any

import torch
from tqdm import tqdm

from aiinfra.bench.load import EngineServer, decoding
from aiinfra.bench.row import Row
from aiinfra.checkpoint import load
from aiinfra.engine.engine import Engine
from aiinfra.model import Transformer
from aiinfra.perf import percentile

BATCHES = (1, 8, 32)                                   # requests
STEPS, CONTEXT = 32, 128                               # steps that are timed; tokens behind each request


@dataclass(frozen=True)
class StepParts:
    """Seconds of a step: planning it, making the model's inputs, the model's own calls, choosing the
    tokens."""

    plan: float
    inputs: float
    model: float
    sampling: float

    @property
    def total(self) -> float:
        """Seconds of the whole step."""
        return sum(astuple(self))


def bench_engine(model_name: str, seed: int = 0, **engine_options: Any) -> Iterator[Row]:
    """Where a decode step's time goes at 1, 8 and 32 requests; and the share outside the model, at 32 the
    target C6.

    The model's time is what its own calls take: the tensors that are made for them count as "inputs". On a
    GPU, which works while Python goes on, inputs and model cannot be told apart this way and are one.
    """
    model, _ = load(model_name)
    options = {"max_running": max(BATCHES), "overlap": False, **engine_options}
    for batch in tqdm(BATCHES, desc="batch", disable=None):
        parts = split_steps(Engine(model, **options), batch, seed)
        yield from _rows(batch, parts)


def _rows(batch: int, parts: StepParts) -> Iterator[Row]:
    for name in ("plan", "inputs", "model", "sampling"):
        seconds = getattr(parts, name)
        yield Row(f"batch {batch}: {name}", 1e3 * seconds, "ms", note=f"{100 * seconds / parts.total:.1f} %")
    outside = 1 - parts.model / parts.total
    note = f"of {1e3 * parts.total:.1f} ms a step, median of {STEPS}"
    target = "C6" if batch == 32 else ""
    yield Row(f"   outside the model, batch {batch}", 100 * outside, "%", note=note, target=target)


def split_steps(engine: Engine, batch: int, seed: int) -> StepParts:
    """The median of each part over decode steps of `batch` requests."""
    server = decoding(engine, batch, CONTEXT, 2 * STEPS + CONTEXT, random.Random(seed))
    steps = []
    with _clock(engine.model) as inside:
        for _ in range(STEPS):
            inside.clear()
            server.step()
            steps.append(_parts(server, sum(inside)))
    columns = zip(*map(astuple, steps))
    return StepParts(*(percentile(column, 50) for column in columns))


def _parts(server: EngineServer, in_calls: float) -> StepParts:
    """The newest step; in_calls: seconds that the calls of the model took, as Python sees them."""
    record = server.records[-1]
    on_cpu = server.engine.model.device.type == "cpu"
    model_seconds = in_calls if on_cpu else record.model_seconds
    return StepParts(
        plan=record.plan_seconds,
        inputs=record.model_seconds - model_seconds,
        model=model_seconds,
        sampling=record.sample_seconds,
    )


@contextmanager
def _clock(model: Transformer) -> Iterator[list[float]]:
    """While it is open, the seconds of each call of `model.hidden` and `model.lm_head` are appended to the
    list."""
    seconds: list[float] = []
    started: list[float] = []

    def start(*_: Any) -> None:
        started.append(time.perf_counter())

    def stop(*_: Any) -> None:
        seconds.append(time.perf_counter() - started.pop())

    def hidden(*args: Any, **kwargs: Any) -> torch.Tensor:
        start()
        out = type(model).hidden(model, *args, **kwargs)
        stop()
        return out
    hooks = [model.lm_head.register_forward_pre_hook(start), model.lm_head.register_forward_hook(stop)]
    model.hidden = hidden                                # on this instance; deleted, the class's own is back
    try:
        yield seconds
    finally:
        del model.hidden
        for hook in hooks:
            hook.remove()
