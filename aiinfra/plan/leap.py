"""Many steps at once, where nothing but time passes.

    step by step   d d d d d d d d d d d d d d d p d d d …     d: everybody decodes, p: a prompt is read
    with leaps     └──────── one leap ─────────┘ p └─ one …

While everybody decodes, nobody can enter and no block is missing, what a step does is known before it is
planned: each request gets a token, and takes a block where its last one is full. A leap does that for as many
steps as it lasts, up to the one in which somebody ends or after which somebody comes. Blocks are taken and
made known in the order of the steps, so that afterwards scheduler and pool are, to the block, what single
steps make of them; the clock is the same but for rounding. The cost must say by itself what a step of decodes
takes: `DecodeCost`. With it a day of traffic is simulated in minutes (fleet.py). Notebook 18.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Protocol

from aiinfra.engine.blocks import BlockPool, digest_of
from aiinfra.engine.request import Request
from aiinfra.engine.scheduler import Plan, Scheduler
from aiinfra.plan.simulate import VirtualEngine, any_token

_AGE = attrgetter("age")
_STRAIGHT = 1e-9           # so far, relatively, the cost may be from a straight line between two steps


class DecodeCost(Protocol):
    """A cost of steps that also knows, without a plan, what a step of nothing but decodes takes: the same to
    the bit."""

    def __call__(self, plan: Plan) -> float:
        """Seconds of any step."""
        ...

    def decode(self, requests: int, context: int) -> float:
        """Seconds of a step in which so many requests run one token each, and read the keys and values of
        `context` tokens together, these among them."""
        ...


@dataclass(frozen=True)
class Leap:
    """Steps in which the same requests get a token each; of one to the next, `longer` seconds more."""

    begin_seconds: float
    requests: tuple[Request, ...]      # in the order in which they run
    steps: int
    first_seconds: float               # that the first of them takes
    longer: float

    def after(self, steps: int) -> float:
        """Seconds from the begin to the end of its first `steps` steps."""
        return steps * self.first_seconds + self.longer * steps * (steps - 1) / 2

    @property
    def end_seconds(self) -> float:
        """When the last step's tokens are there."""
        return self.begin_seconds + self.after(self.steps)

    def until(self, seconds: float) -> "Leap":
        """Its steps that begin before this moment, in which somebody comes; at least the first."""
        before = bisect_left(range(1, self.steps), seconds - self.begin_seconds, key=self.after)
        return replace(self, steps=1 + before)


def foresee(engine: VirtualEngine) -> Leap | None:
    """The longest leap from here if nobody comes, and nothing is done yet; None if only a step can tell.
    Needs a `DecodeCost`, and nobody who looks for answers in the cache."""
    scheduler = engine.scheduler
    if engine.token is not any_token or not _only_time_passes(engine):
        return None
    order = tuple(sorted(scheduler.running, key=_AGE))
    steps = min(map(engine.left, order))
    steps = _steps_with_blocks(scheduler, order, steps)
    steps = _steps_until_the_next_may_enter(scheduler, order, steps)
    return _priced(engine, order, steps) if steps else None


def take(engine: VirtualEngine, leap: Leap) -> list[Request]:
    """Run the steps of a leap that `foresee` gave, or fewer of them; returns who has ended with the last."""
    pool = engine.scheduler.pool
    for request in leap.requests:
        request.tokens += [0] * leap.steps                  # what any_token gives
    _fill_blocks(pool, leap)
    for request in leap.requests:
        request.computed += leap.steps
    engine.clock = leap.end_seconds
    ended = [request for request in leap.requests if engine.left(request) == 0]
    for request in ended:
        engine.finish(request)
    return ended


def _only_time_passes(engine: VirtualEngine) -> bool:
    """True if all who run decode, each into a block of its own, and nobody can enter."""
    scheduler = engine.scheduler
    if not scheduler.running or any(r.pending > 1 or r.made == 0 for r in scheduler.running):
        return False
    if any(_writes_into_a_shared_block(scheduler.pool, request) for request in scheduler.running):
        return False
    if len(scheduler.running) == scheduler.max_running:
        return True
    return _next_to_enter(scheduler) in (None, engine.refused)


def _writes_into_a_shared_block(pool: BlockPool, request: Request) -> bool:
    half_full = request.computed % pool.block_size > 0
    return half_full and pool.owners(request.blocks[-1]) > 1


def _next_to_enter(scheduler: Scheduler) -> Request | None:
    return next(filter(scheduler.may_enter, scheduler.waiting), None)


def _steps_with_blocks(scheduler: Scheduler, order: Sequence[Request], steps: int) -> int:
    """How many steps have blocks for everybody."""
    pool = scheduler.pool
    can_be_had = pool.free + pool.cached
    size = pool.block_size
    if len(order) * -(-steps // size) <= can_be_had:        # enough even if everybody's last one is full
        return steps
    held = sum(len(request.blocks) for request in order)

    def taken(after: int) -> int:
        return sum(-(-(request.computed + after) // size) for request in order) - held
    return bisect_right(range(1, steps + 1), can_be_had, key=taken)


def _steps_until_the_next_may_enter(scheduler: Scheduler, order: Sequence[Request], steps: int) -> int:
    """Who waits for blocks needs fewer once somebody makes a block that its prompt goes on with."""
    pool = scheduler.pool
    waits = _next_to_enter(scheduler)
    if waits is None or not pool.prefix_caching:
        return steps
    found = len(pool.match(waits.tokens, waits.digests))
    if found == (len(waits.tokens) - 1) // pool.block_size:
        return steps
    wanted = digest_of(found, waits.tokens, pool.block_size, waits.digests)
    size = pool.block_size
    for request in order:
        known = request.tokens + [0] * steps
        for block in range(request.computed // size, (request.computed + steps) // size):
            if digest_of(block, known, size, request.digests) == wanted:
                steps = min(steps, (block + 1) * size - request.computed)
    return steps


def _priced(engine: VirtualEngine, order: tuple[Request, ...], steps: int) -> Leap:
    """With its seconds; only so many steps as the cost is a straight line."""
    each = len(order)
    context = sum(request.computed for request in order) + each
    line = engine.lines.get(each)
    while line is None or not line.covers(context, context + (steps - 1) * each):
        last = context + (steps - 1) * each
        # A wider one serves the next leaps, too.
        line = _line(engine.cost, each, max(each, context // 2), 2 * last)
        line = line or _line(engine.cost, each, context, last)
        if line is None:
            steps = (steps + 1) // 2
        else:
            engine.lines[each] = line
    return Leap(
        begin_seconds=engine.clock,
        requests=order,
        steps=steps,
        first_seconds=line.seconds(context),
        longer=each * line.slope)


@dataclass(frozen=True)
class Line:
    """What steps of so many decodes take, from one size of their context to another."""

    low: int
    high: int
    low_seconds: float
    slope: float

    def covers(self, low: int, high: int) -> bool:
        """True if it holds for all that lies between."""
        return self.low <= low and high <= self.high

    def seconds(self, context: int) -> float:
        """Of a step that reads so much."""
        return self.low_seconds + (context - self.low) * self.slope


def _line(cost: DecodeCost, requests: int, low: int, high: int) -> Line | None:
    """The cost of so many decodes between two sizes of context; None if it is not straight."""
    first = cost.decode(requests, low)
    if high == low:
        return Line(low=low, high=high, low_seconds=first, slope=0.0)
    slope = (cost.decode(requests, high) - first) / (high - low)
    half = (low + high) // 2
    line = Line(low=low, high=high, low_seconds=first, slope=slope)
    between = cost.decode(requests, half)
    return line if abs(line.seconds(half) - between) <= _STRAIGHT * between else None


def _fill_blocks(pool: BlockPool, leap: Leap) -> None:
    """Take blocks and make full ones known, in the order of single steps: whose content was forgotten before
    it could be found again depends on it."""
    size = pool.block_size
    at: list[list[Request]] = [[] for _ in range(size)]     # who stands at which place of a block
    for request in leap.requests:
        at[request.computed % size].append(request)
    for step in range(leap.steps):
        for request in at[-step % size]:
            request.blocks += pool.allocate(1)
        if pool.prefix_caching:
            for request in at[(-step - 1) % size]:
                block = (request.computed + step) // size
                pool.seal(request.blocks[block], digest_of(block, request.tokens, size, request.digests))
