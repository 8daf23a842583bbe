"""How long a step takes, by phase, without stopping a GPU between the phases.

    CPU     data │ forward │ backward │ data │ …                 asks, and runs ahead
    GPU            ●──────────●──────────●─────── …  ──●         an event at every border, read at the end

To wait at each border would empty the GPU's queue there, several times a micro-batch. The one wait is at the
end of the step, whose loss and norm have been waited for already. Notebook 04.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.profiler import record_function

from aiinfra.train.step import PhaseSeconds

_Mark = float | torch.cuda.Event             # a moment: of the CPU's clock, or of the GPU's


class StepClock:
    """Runs from its making to `stop()`, which fills in the results. The device's work belongs to the phase
    that asked for it."""

    seconds: float                           # of the whole step
    phases: PhaseSeconds

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._passed: list[tuple[str, _Mark, _Mark]] = []
        self._begin = self._mark()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of the block to a phase, which also has its name in a profile."""
        begin = self._mark()
        with record_function(name):
            yield
        self._passed.append((name, begin, self._mark()))

    def stop(self) -> None:
        """Wait until the device has done all of it, and read what it took."""
        end = self._mark()
        if self._on_gpu:
            end.synchronize()
        self.seconds = self._between(self._begin, end)
        spent: dict[str, float] = {}
        for name, first, last in self._passed:
            spent[name] = spent.get(name, 0.0) + self._between(first, last)
        self.phases = PhaseSeconds(**spent)

    def _mark(self) -> _Mark:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, first: _Mark, last: _Mark) -> float:
        if self._on_gpu:
            return first.elapsed_time(last) / 1e3
        return last - first
