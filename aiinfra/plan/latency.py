"""What users wait for, in figures: the first token, the time a token, and whether that was in time.

    arrival ──── TTFT ────► │ token │ token │ … │ token │       TPOT: the mean of these gaps, of one request
                            └ ITL ──┴ ITL ──┘                   ITL: each of them

A target is met by a request, not by a percentile: goodput counts the requests whose TTFT and TPOT were both
in time (DistServe, Zhong et al. 2024). Where a simulation makes more gaps than a list can hold, they are
counted in classes that are a hundredth wide, as in HdrHistogram. Notebooks 15 and 18.
"""

import math
from collections import Counter
from collections.abc import Iterable

from aiinfra.config import config

QUANTILES = (50, 90, 99)
_WIDTH = math.log(1.01)


@config
class LatencyTarget:
    """What a request may take, in seconds, and which share of the requests must be so quick."""

    ttft_seconds: float
    tpot_seconds: float
    share: float = 0.99

    def __post_init__(self) -> None:
        if not (self.ttft_seconds > 0 and self.tpot_seconds > 0 and 0 < self.share <= 1):
            raise ValueError(f"{self!r}; seconds must be above 0, and the share above 0 and at most 1. For "
                             "instance LatencyTarget(ttft_seconds=2, tpot_seconds=0.05).")

    def __str__(self) -> str:
        return f"first token ≤ {self.ttft_seconds:.3g} s, a token ≤ {self.tpot_seconds:.3g} s"

    def met(self, ttft_seconds: float, tpot_seconds: float) -> bool:
        """True for a request that was in time."""
        return ttft_seconds <= self.ttft_seconds and tpot_seconds <= self.tpot_seconds


class Waits:
    """What the user of a request waited for, from its `arrival_seconds`, `first_seconds`, `last_seconds` and
    `output_tokens`."""

    @property
    def ttft_seconds(self) -> float:
        """Time to first token, from when it was sent."""
        return self.first_seconds - self.arrival_seconds

    @property
    def tpot_seconds(self) -> float:
        """Time per output token after the first; 0 for a single one."""
        return (self.last_seconds - self.first_seconds) / max(1, self.output_tokens - 1)


class Classes:
    """Many values above 0, counted in classes a hundredth wide."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()

    def add(self, value: float, count: int = 1) -> None:
        """So many times this value."""
        self.counts[round(math.log(value) / _WIDTH)] += count

    def update(self, others: Iterable["Classes"]) -> None:
        """All values of the others, too."""
        for other in others:
            self.counts.update(other.counts)

    def percentile(self, q: float) -> float:
        """The value that q % are not above; off by at most half a hundredth. Raises ValueError if there is
        none."""
        wanted = q / 100 * self.counts.total()
        if not self.counts:
            raise ValueError("a percentile of no values: serve at least one request of two tokens.")
        seen = 0
        for place in sorted(self.counts):
            seen += self.counts[place]
            if seen >= wanted:
                break
        return math.exp(place * _WIDTH)
