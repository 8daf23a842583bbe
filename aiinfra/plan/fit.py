"""Does a training run fit into a device's memory, how large may its batch be, and what helps if it does not?

    the run ──► predicted peak ──► below the budget? ──► yes: the largest batch that is
                                                    └──► no:  the ladder, cheapest rung first

    fewer rows at once      the same arithmetic, in more micro-batches
    16 bits                 rounding
    recompute operations    traffic
    recompute blocks        a third more arithmetic
    FSDP                    other devices

The prediction is `perf/memory.py`'s; nothing is run. Notebook 05.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from aiinfra.config import config
from aiinfra.errors import nearest
from aiinfra.perf.memory import MemoryPlan, predict_memory
from aiinfra.perf.sharding import Sharding
from aiinfra.perf.training import DecoderShape, decoder_flops, recomputed_flops

RECOMPUTE = ("none", "operation", "block")
_MOST_ROWS = 1 << 20
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
        if self.recompute not in RECOMPUTE:
            known = ", ".join(RECOMPUTE)
            raise ValueError(f"recompute={self.recompute!r} is not known."
                             f"{nearest(self.recompute, RECOMPUTE)} Known: {known}.")

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
    """Remedies from the cheapest to the dearest, each by itself, then all that one device has at once, then
    more devices. A remedy that is in use already is left out."""
    def rung(name: str, price: str, changed: PlannedRun) -> Rung:
        return Rung(name=name, run=changed, peak=changed.memory(shape).peak, price=price)
    fewer = _fewer_rows(shape, run, budget)
    if fewer.rows < run.rows:
        name = f"{fewer.rows:,} of {run.rows:,} rows at once, {fewer.accumulate:,} micro-batches"
        yield rung(name, "smaller products", fewer)
    if not run.narrow:
        yield rung("compute in 16 bits", "rounding", replace(run, narrow=True))
    for policy in RECOMPUTE[RECOMPUTE.index(run.recompute) + 1:]:
        changed = replace(run, recompute=policy)
        price = f"{changed.extra_time(shape):.0%} more arithmetic"
        if policy == "operation":
            price = "more traffic, no more products"
        yield rung(f"recompute each {policy}", price, changed)
    alone = replace(fewer, rows=1, accumulate=run.rows * run.accumulate, narrow=True, recompute="block")
    yield rung("one row at once, 16 bits, recompute each block", "all of the above", alone)
    yield from _more_ranks(shape, run, alone, budget)


def _fewer_rows(shape: DecoderShape, run: PlannedRun, budget: float) -> PlannedRun:
    """The same rows a step in more micro-batches: as few as fit, or of one row."""
    least = run
    for parts in range(1, run.rows + 1):
        if run.rows % parts == 0:
            least = replace(run, rows=run.rows // parts, accumulate=run.accumulate * parts)
            if least.memory(shape).peak <= budget:
                break
    return least


def _more_ranks(shape: DecoderShape, run: PlannedRun, alone: PlannedRun, budget: float) -> Iterator[Rung]:
    """FSDP over the fewest ranks that do (powers of two): for the run as it is, and for one that saves."""
    for name, base in (("FSDP", run), ("FSDP, one row at once, 16 bits, recompute each block", alone)):
        ranks = max(2, 2 * run.sharding.ranks)
        while ranks <= _MOST_RANKS:
            sharding = replace(run.sharding, ranks=ranks, stage=3)
            changed = replace(base, sharding=sharding)
            peak = changed.memory(shape).peak
            if peak <= budget:
                yield Rung(name=f"{name}, {ranks} ranks", run=changed, peak=peak, price=f"{ranks} devices")
                break
            ranks *= 2
