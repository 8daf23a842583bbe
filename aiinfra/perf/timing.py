"""Timing that can be repeated: warm up, wait for the device, take the median, say how wide the spread was.

    t = time_call(lambda: x @ w, device)       # t.median_seconds, t.spread

The mean is spoilt by one interruption and the minimum flatters; a median with its spread tells whether two
figures differ. On a GPU a call only puts work in a queue, so the clock stops after `synchronize`. Notebook
00.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from aiinfra.device import synchronize


@dataclass(frozen=True)
class Timing:
    """Repeated measurements of one thing, in seconds."""

    seconds: tuple[float, ...]

    @property
    def median_seconds(self) -> float:
        """The middle measurement."""
        return percentile(self.seconds, 50)

    @property
    def spread(self) -> float:
        """Distance between the quartiles as a share of the median: above 0.1 the machine was busy."""
        return (percentile(self.seconds, 75) - percentile(self.seconds, 25)) / self.median_seconds


def percentile(values: tuple[float, ...] | list[float], q: float) -> float:
    """The q-th percentile (0 to 100), interpolated. Raises ValueError if there are no values."""
    if not values:
        raise ValueError("a percentile of no values: measure at least once.")
    ordered = sorted(values)
    at = (len(ordered) - 1) * q / 100
    below = int(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (at - below)


def gaps(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The times in which no span (start, end) runs, from the first start to the last end; spans may overlap,
    in any order. What is shorter than a picosecond, in seconds, is rounding and no gap."""
    ordered = sorted(spans)
    found, until = [], ordered[0][1] if ordered else 0.0
    for start, end in ordered:
        if start > until + 1e-12:
            found.append((until, start))
        until = max(until, end)
    return found


def time_call(fn: Callable[[], object], device: torch.device | str = "cpu", warmup: int = 2,
              budget_seconds: float = 0.5, at_least: int = 5, at_most: int = 200) -> Timing:
    """Call `fn` again and again for about `budget_seconds`, after `warmup` calls that do not count.

    Each measurement covers one call and its work on `device`. For work of a few microseconds on a GPU,
    time a loop: the synchronisation itself costs about ten.
    """
    for _ in range(warmup):
        fn()
    synchronize(device)
    seconds: list[float] = []
    end = time.perf_counter() + budget_seconds
    while len(seconds) < at_most:
        if len(seconds) >= at_least and time.perf_counter() >= end:
            break
        start = time.perf_counter()
        fn()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return Timing(tuple(seconds))
