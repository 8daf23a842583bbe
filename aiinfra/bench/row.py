"""One line of a benchmark, the same for all: a figure with its unit, beside the peer's.

    decode, 1 request                            21.4 tok/s      17.9 transformers 4.56.0   × 1.20  …  C1
    name                                         ours unit       peer peer_name             ratio note target

A value that could not be measured is None, and the note says why.
"""

import math
from dataclasses import dataclass

_LESS_IS_BETTER = ("s", "ms")
_MOST_SAID = 200                         # characters of an error in a row


@dataclass(frozen=True)
class Row:
    """One line of a benchmark: a value with its unit, and the peer's where there is one. ours: None if it
    could not be measured; the note says why. target: the short name of the goal that this line is about, if
    there is one."""

    name: str
    ours: float | None
    unit: str
    peer: float | None = None
    peer_name: str = ""
    note: str = ""
    target: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times better than the peer: ours over theirs for a rate, theirs over ours for a time."""
        if not self.peer or self.ours is None:
            return None
        return self.peer / self.ours if self.unit in _LESS_IS_BETTER else self.ours / self.peer

    def __str__(self) -> str:
        ours = "–" if self.ours is None else digits(self.ours)
        columns = [f"{self.name:40s} {ours:>8s} {self.unit:6s} {self._against()}", self.note, self.target]
        return "  ".join(column for column in columns if column).rstrip()

    def _against(self) -> str:
        if self.ratio is None:
            return ""
        return f"{digits(self.peer):>8s} {self.peer_name}   × {self.ratio:.2f}"


def reason_of(failed: BaseException) -> str:
    """What was raised, in a line: its kind, and the first line of what it says."""
    said = str(failed).strip().splitlines() or ["it says nothing"]
    return f"{type(failed).__name__}: {said[0][:_MOST_SAID]}"


def digits(value: float) -> str:
    """A figure with three significant digits, or all before the point: 1.09, 54.3, 1,234."""
    if not math.isfinite(value) or value == 0:
        return str(value)
    magnitude = math.floor(math.log10(abs(value)))
    decimals = max(0, 2 - magnitude)
    return f"{value:,.{decimals}f}"
