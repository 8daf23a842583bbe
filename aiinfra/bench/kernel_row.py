"""A kernel beside the best known alternative: its line, and how both are timed.

A ratio above 1 means ours is faster, or reads faster than the limit that was measured. Each row checks its
result in float64, too: a fast wrong answer has not `met` its target. `kernels.py` says what is compared with
what.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from aiinfra.bench.row import Row, reason_of
from aiinfra.device import synchronize
from aiinfra.gpu.graph import capture
from aiinfra.perf.timing import time_call


@dataclass(frozen=True, kw_only=True)
class KernelRow(Row):
    """One kernel: our seconds beside the peer's, both None where nothing was measured; then `note` says
    why."""

    ours: float | None = None
    unit: str = "s"
    setting: str                         # shapes and dtype
    floor: float                         # of the ratio: below it, the target is missed
    goal: float
    error: float                         # relative, against the check named in `checked`
    checked: str
    peak_bytes: int | None = None        # memory that the operation added at its highest
    peer_peak_bytes: int | None = None

    @property
    def correct(self) -> bool:
        """True if the error is within what the dtype's rounding explains; False for NaN."""
        tolerance = 0.02 if self.setting.startswith("bfloat16") else 1e-5
        return self.error <= tolerance

    @property
    def met(self) -> bool | None:
        """True if the result is correct and the floor reached; None where nothing was measured."""
        if self.ratio is None:
            return None
        return self.correct and self.ratio >= self.floor

    def __str__(self) -> str:
        verdict = "equal to" if self.correct else "DIFFERS from"
        head = f"{self.name:18s}{self.setting}  {self.target}"
        check = f"{verdict} {self.checked} (relative error {self.error:.1e})"
        if self.ratio is None:
            return f"{head}\n      {check}. {self.note}"
        bounds = f"floor {self.floor}, goal {self.goal}"
        times = f"{self.ours * 1e6:,.0f} µs against {self.peer * 1e6:,.0f} µs{self._memory()}"
        against = f"{self.ratio:.2f} × {self.peer_name} ({bounds}; {times}) {self.note}"
        return f"{head}\n      {check}\n      {against}".rstrip()

    def _memory(self) -> str:
        if self.peak_bytes is None or self.peer_peak_bytes is None:
            return ""
        return f"; memory {self.peak_bytes / 1e6:,.0f} MB against {self.peer_peak_bytes / 1e6:,.0f} MB"


@dataclass(frozen=True)
class KernelComparison:
    """A kernel whose result has been checked, and that can be measured: `measure()` returns the row's missing
    fields, ours and peer in seconds. `missing`: in words, what is not known without."""

    row: KernelRow
    missing: str
    measure: Callable[[], dict[str, Any]]

    def measured(self) -> KernelRow:
        """The row with its figures."""
        return replace(self.row, **self.measure())

    def unmeasured(self) -> KernelRow:
        """The row with the reason why it has none."""
        reason = "this needs a CUDA GPU; here only the torch path's result was checked."
        return replace(self.row, note=f"Not measured, {self.missing}: {reason}")


def failed_row(name: str, failed: Exception) -> KernelRow:
    """In place of a row that could not be made: what was raised."""
    return KernelRow(
        name=name,
        setting="",
        floor=math.nan,
        goal=math.nan,
        error=math.nan,
        checked="nothing",
        note=f"failed: {reason_of(failed)}",
    )


def seconds_of(calls: Sequence[Callable[[], object]], device: torch.device) -> float:
    """Median seconds of one of `calls`, which run one after another; on a GPU inside a CUDA graph."""
    if device.type == "cpu":
        together = time_call(lambda: [call() for call in calls], device, budget_seconds=0.02)
        return together.median_seconds / len(calls)
    rounds = max(1, 8 // len(calls))

    def work() -> None:
        for _ in range(rounds):
            for call in calls:
                call()
    graph = capture(work)
    together = time_call(graph.replay, device, budget_seconds=1.0)
    return together.median_seconds / (rounds * len(calls))


def peak_bytes(call: Callable[[], object], device: torch.device) -> int | None:
    """Memory that `call` added at its highest; None on a CPU, where PyTorch keeps no such count."""
    if device.type == "cpu":
        return None
    synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
