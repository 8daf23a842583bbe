"""`python -m aiinfra bench neighbour`: how much a process that keeps a core busy leaves of decoding's speed.

    alone              thread 0 ████──┐                    thread 0 ████──┐
                       thread 1 ████──┴ next operation     thread 1 ░░░░░░░░░████──┴ next operation
    with a neighbour                                       neighbour █████████

Threads meet at the end of every operation, hundreds of times a token, so one that has lost its core holds up
all; and where the others wait by spinning, they keep it from coming back (`environment.calm_threads`). Both
are measured in turns, so that a machine that slows down slows both. Notebook 00.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from aiinfra.bench.decode import Side, ours
from aiinfra.bench.row import Row
from aiinfra.checkpoint import load
from aiinfra.checkpoint.hub import resolve
from aiinfra.environment import calm_threads
from aiinfra.perf import percentile, time_call

GOAL = 0.4
_PROMPT = list(range(100, 132))
# It ends with the process that started it, also where that is killed.
_BUSY = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    sum(range(100_000))
"""


def bench_neighbour(model_name: str, turns: int = 5) -> Iterator[Row]:
    """Tokens a second of one request alone, and beside one busy process; then the second over the first."""
    model, _ = load(resolve(model_name))
    side = ours(model, "aiinfra", exact=False)
    alone, beside = _rates(side, turns)
    setting = calm_threads()
    yield Row("decode, alone on the machine", percentile(alone, 50), "tok/s", note=setting)
    yield Row("decode, with one busy neighbour", percentile(beside, 50), "tok/s")
    left = percentile(beside, 50) / percentile(alone, 50)
    note = f"goal: at least {GOAL}; the slowest of {turns} turns {min(beside) / percentile(alone, 50):.2f}"
    yield Row("tok/s with one busy neighbour ÷ alone", left, "", note=note)


def _rates(side: Side, turns: int) -> tuple[list[float], list[float]]:
    """Tokens a second of each turn: alone, and with the neighbour."""
    side.decode(_PROMPT)                                             # warm-up
    alone, beside = [], []
    for _ in tqdm(range(turns), desc="turns", disable=None):
        alone.append(_rate(side))
        with busy_process():
            beside.append(_rate(side))
    return alone, beside


def _rate(side: Side) -> float:
    made: list[int] = []
    timing = time_call(lambda: made.extend(side.decode(_PROMPT)), warmup=0, budget_seconds=0, at_least=1)
    return len(made) / timing.seconds[0]


@contextmanager
def busy_process() -> Iterator[subprocess.Popen]:
    """A process that computes without a pause, for as long as the block lasts."""
    neighbour = subprocess.Popen([sys.executable, "-c", _BUSY, str(os.getpid())])
    try:
        yield neighbour
    finally:
        neighbour.kill()
        neighbour.wait()
