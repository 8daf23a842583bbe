"""Does a training run fit into a device's memory, how large may its batch be, and what helps if it does not?

    the run ──► predicted peak ──► below the budget? ──► yes: the largest batch that is
                                                    └──► no:  the ladder, cheapest rung first

    fewer rows at once      the same arithmetic, in more micro-batches
    16 bits                 rounding
    recompute operations    traffic
    recompute blocks        up to a third more arithmetic
    FSDP                    other devices

The prediction is `perf/memory.py`'s; nothing is run. Notebook 05.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf

from aiinfra.config import config
from aiinfra.errors import nearest
from aiinfra.perf.memory import MemoryPlan, predict_memory
from aiinfra.perf.sharding import Sharding
from aiinfra.perf.training import DecoderShape, decoder_flops, recomputed_flops
from aiinfra.train.recompute import POLICIES

_MOST_ROWS = 1 << 20
_LONGEST = 1 << 30
_MOST_RANKS = 4096


@config
class PlannedRun:
    """What one rank does in a step: `accumulate` micro-batches of `rows` rows of `length` tokens."""

    rows: int
    length: int
    accumulate: int = 1
    narrow: bool = False                 # autocast to 16 bits
    recompute: str = "none"              # policy of activation checkpointing
    sharding: Sharding = Sharding()
    backend: str = "torch"               # "triton" on a GPU

    def __post_init__(self) -> None:
        for name in ("rows", "length", "accumulate"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r}; it must be a whole number of at least 1.")
        if self.rows > _MOST_ROWS or self.length > _LONGEST:
            raise ValueError(f"rows={self.rows:,}, length={self.length:,}; at most {_MOST_ROWS:,} rows of "
                             f"{_LONGEST:,} tokens are planned.")
        if self.recompute not in POLICIES:
            known = ", ".join(POLICIES)
            raise ValueError(f"recompute={self.recompute!r} is not known."
                             f"{nearest(self.recompute, POLICIES)} Known: {known}.")

    @property
    def lengths(self) -> list[int]:
        """Of the rows of one micro-batch."""
        return [self.length] * self.rows

    def memory(self, shape: DecoderShape) -> MemoryPlan:
        """What it needs on each rank."""
        return predict_memory(shape, self.lengths, self.recompute, self.accumulate, self.narrow,
                              self.sharding, self.backend)

    def extra_time(self, shape: DecoderShape) -> float:
        """The share of arithmetic that is done a second time."""
        again = recomputed_flops(shape, self.lengths, self.recompute)
        return again / decoder_flops(shape, self.lengths)


@dataclass(frozen=True)
class Rung:
    """A remedy: the run that it makes of the given one, its peak, and its price in words."""

    name: str
    run: PlannedRun
    peak: int
    price: str


def largest_batch(shape: DecoderShape, run: PlannedRun, budget: float) -> int:
    """The most rows a micro-batch whose predicted peak is at most `budget` bytes; 0 if not even one."""
    def fits(rows: int) -> bool:
        return replace(run, rows=rows).memory(shape).peak <= budget
    if not fits(1):
        return 0
    low = 1                              # fits
    while low < _MOST_ROWS and fits(2 * low):
        low *= 2
    high = 2 * low                       # does not
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low


def ladder(shape: DecoderShape, run: PlannedRun, budget: float) -> Iterator[Rung]:
    """Remedies from the cheapest to the dearest, each by itself, then those of one device together, then
    more devices. A remedy that is in use already, or that would make the peak no lower, is left out."""
    shown: list[PlannedRun] = []
    for rung in _single_rungs(shape, run, budget):
        if rung.peak < _peak(shape, run):
            shown.append(rung.run)
            yield rung
    together = _sparing(shape, run, budget)
    if together != run and together not in shown:
        yield Rung(", ".join(_changes(run, together)), together, peak=_peak(shape, together),
                   price="all of these")
    yield from _more_ranks(shape, run, budget)


def _single_rungs(shape: DecoderShape, run: PlannedRun, budget: float) -> Iterator[Rung]:
    """Of one device, one change each."""
    fewer = _fewer_rows(shape, run, budget)
    if fewer != run:
        name = f"{_changes(run, fewer)[0]}, {fewer.accumulate:,} micro-batches"
        yield Rung(name, fewer, peak=_peak(shape, fewer), price="smaller products")
    if not run.narrow:
        changed = replace(run, narrow=True)
        yield Rung("compute in 16 bits", changed, peak=_peak(shape, changed), price="rounding")
    for policy in POLICIES[POLICIES.index(run.recompute) + 1:]:
        changed = replace(run, recompute=policy)
        price = f"{changed.extra_time(shape):.0%} more arithmetic"
        if policy == "operation":
            price = "more traffic, no more products"
        yield Rung(f"recompute each {policy}", changed, peak=_peak(shape, changed), price=price)


def _peak(shape: DecoderShape, run: PlannedRun) -> int:
    return run.memory(shape).peak


def _changes(run: PlannedRun, changed: PlannedRun) -> list[str]:
    """What the one does that the other does not, in words."""
    found = []
    if changed.rows < run.rows:
        found.append(f"{changed.rows:,} of {run.rows:,} rows at once")
    if changed.narrow and not run.narrow:
        found.append("16 bits")
    if changed.recompute != run.recompute:
        found.append(f"recompute each {changed.recompute}")
    return found


def _fewer_rows(shape: DecoderShape, run: PlannedRun, budget: float) -> PlannedRun:
    """The same rows a step in as few micro-batches as fit; if none fits, those with the lowest peak.

    More micro-batches are not always less: the gradients of the first one live through all the others.
    """
    lowest = run
    least = _peak(shape, run)
    for parts in range(1, run.rows + 1):
        if run.rows % parts or least <= budget:
            continue
        divided = replace(run, rows=run.rows // parts, accumulate=run.accumulate * parts)
        peak = _peak(shape, divided)
        if peak < least:
            lowest, least = divided, peak
    return lowest


def _sparing(shape: DecoderShape, run: PlannedRun, budget: float) -> PlannedRun:
    """All that one device can do: blocks recomputed, and 16 bits and fewer rows where they help."""
    blocks = replace(run, recompute="block")
    bits = [_fewer_rows(shape, replace(blocks, narrow=narrow), budget) for narrow in (run.narrow, True)]
    return min(bits, key=lambda divided: _peak(shape, divided))


def _more_ranks(shape: DecoderShape, run: PlannedRun, budget: float) -> Iterator[Rung]:
    """FSDP over the fewest ranks that do (powers of two): for the run as it is, and for one that saves."""
    tried: list[PlannedRun] = []
    for spare in (False, True):
        ranks, peak = max(2, 2 * run.sharding.ranks), inf
        while ranks <= _MOST_RANKS:
            changed = replace(run, sharding=replace(run.sharding, ranks=ranks, stage=3))
            if spare:
                changed = _sparing(shape, changed, budget)
            peak = _peak(shape, changed)
            if peak <= budget:
                break
            ranks *= 2
        if peak <= budget and changed not in tried:
            tried.append(changed)
            words = ["FSDP", *_changes(run, changed), f"{ranks} ranks"]
            yield Rung(", ".join(words), changed, peak=peak, price=f"{ranks} devices")
