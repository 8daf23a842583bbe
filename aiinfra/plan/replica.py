"""One replica of a fleet: a virtual engine, and when it has something to tell.

    add ─► waiting ─► │ step │ step │ leap ··········· │ step │      wakes: when what it does now has ended
                                         ▲ add: the leap ends with the step that runs now

Its scheduler is the engine's own. A leap that nobody disturbs is one event, so a replica costs little while
everybody decodes. Notebook 18.
"""

from collections import Counter
from dataclasses import dataclass
from math import inf

from aiinfra.engine.request import Request
from aiinfra.engine.scheduler import Plan, Scheduler
from aiinfra.plan.latency import Classes, Waits
from aiinfra.plan.leap import DecodeCost, Leap, foresee, take
from aiinfra.plan.simulate import VirtualEngine

_EVEN = 0.01                  # gaps of a leap count as equal if they differ by less, relatively


@dataclass(eq=False)
class Visit(Waits):
    """A request on its way through a fleet; seconds are of the fleet's clock, None: not yet."""

    number: int                            # in the trace
    conversation: int
    arrival_seconds: float
    prompt_tokens: int
    output_tokens: int
    first_seconds: float | None = None     # when its first token was there
    last_seconds: float | None = None
    cached_tokens: int = 0                 # of the prompt, that were found in the cache
    replica: int | None = None             # where it is, or was last
    tries: int = 0                         # replicas that it was sent to
    failed: bool = False                   # its replica died while it was being answered


class Replica:
    """Serves visits on `scheduler` at the price of `cost`. It is paid for from `since_seconds` on."""

    def __init__(self, number: int, scheduler: Scheduler, cost: DecodeCost, since_seconds: float) -> None:
        self.number = number
        self.since_seconds = since_seconds
        self.until_seconds: float | None = None           # None: it is there
        self.engine = VirtualEngine(scheduler, cost)
        self.draining = False                             # nobody new is sent here
        self.wakes = inf
        self.visits: dict[str, Visit] = {}                # that it has, by request id
        self.unread_tokens = 0                            # of prompts whose first token has not come
        self.gaps = Classes()                             # seconds between tokens of a request
        self.queued: Counter[str] = Counter()             # request-seconds in the queue, by what kept them
        self._leap: Leap | None = None
        self._unread: dict[str, Visit] = {}
        self._ended: list[Visit] = []                     # to be told when it wakes
        self._paused: dict[str, float] = {}               # who was pushed out: when its last token came

    @property
    def waiting(self) -> int:
        """Requests in its queue."""
        return len(self.engine.scheduler.waiting)

    @property
    def full(self) -> float:
        """The share of its places or of its blocks that is taken, whichever is more."""
        scheduler = self.engine.scheduler
        places = len(scheduler.running) / scheduler.max_running
        return max(places, scheduler.pool.used / scheduler.pool.total)

    def paid_seconds(self, end: float) -> float:
        """How long it was paid for until `end`."""
        until = end if self.until_seconds is None else self.until_seconds
        return until - self.since_seconds

    def add(self, visit: Visit, request: Request, now: float) -> None:
        """Queue a visit. Raises ValueError if it can never fit."""
        if self.wakes == inf:                             # it begins once all who come now are there
            self.engine.clock = now
            self.wakes = now
        elif self._leap is not None:
            self._run_leap(self._leap.until(now))
            self.wakes = self.engine.clock
        self.engine.add(request)
        self.visits[request.id] = visit
        self._unread[request.id] = visit
        self.unread_tokens += visit.prompt_tokens
        visit.replica = self.number
        visit.tries += 1

    def wake(self) -> list[Visit]:
        """What it did has ended: begin the next thing. Returns the visits that have their last token now."""
        if self._leap is not None:
            self._run_leap(self._leap)
        ended, self._ended = self._ended, []
        self._begin()
        return ended

    def die(self, now: float) -> list[Visit]:
        """It is gone, with all that it had; returns the visits that it had. Those whose answer had begun have
        failed."""
        self.wakes = inf
        self.draining = True
        self.until_seconds = now
        lost = [*self.visits.values(), *self._ended]
        for visit in lost:
            visit.last_seconds = None
            if visit.first_seconds is not None and visit.first_seconds <= now:
                visit.failed = True
            else:
                visit.first_seconds = None
        return lost

    def _begin(self) -> None:
        """The next leap, to be run when it has ended; or the next step, which is run now and told then."""
        self._leap = foresee(self.engine) if self.engine.unfinished else None
        if self._leap is not None:
            self.wakes = self._leap.end_seconds
        elif self.engine.unfinished:
            self._run_step()
            self.wakes = self.engine.clock
        else:
            self.wakes = inf

    def _run_step(self) -> None:
        begin = self.engine.clock
        plan, made, seconds = self.engine.run()
        now = self.engine.clock
        for request in plan.admitted:
            if request.id in self._unread:
                self._unread[request.id].cached_tokens = request.cached_tokens
        for request in plan.preempted:
            self._paused.setdefault(request.id, begin)
        going_on = 0
        for new in made:
            name = new.request_id
            if name in self._unread:
                self._first_token(name, now)
            elif name in self._paused:
                self.gaps.add(now - self._paused.pop(name))
            else:
                going_on += 1
            if new.finish_reason:
                self._last_token(name, now)
        if going_on:
            self.gaps.add(seconds, going_on)
        if self.waiting:
            self.queued[_what_keeps_them(self.engine.scheduler, plan)] += self.waiting * seconds

    def _run_leap(self, leap: Leap) -> None:
        self._leap = None
        ended = take(self.engine, leap)
        now = self.engine.clock
        for request in ended:
            self._last_token(request.id, now)
        # In pieces, of which each has gaps that are almost equal.
        grown = leap.longer * leap.steps / leap.first_seconds
        pieces = min(leap.steps, 1 + int(grown / _EVEN))
        for piece in range(pieces):
            first, after = (leap.steps * end // pieces for end in (piece, piece + 1))
            seconds = (leap.after(after) - leap.after(first)) / (after - first)
            self.gaps.add(seconds, (after - first) * len(leap.requests))
        if self.waiting:
            all_taken = len(leap.requests) == self.engine.scheduler.max_running
            kept = "places" if all_taken else "cache"
            self.queued[kept] += self.waiting * (now - leap.begin_seconds)

    def _first_token(self, name: str, now: float) -> None:
        visit = self._unread.pop(name)
        self._paused.pop(name, None)
        self.unread_tokens -= visit.prompt_tokens
        visit.first_seconds = now

    def _last_token(self, name: str, now: float) -> None:
        visit = self.visits.pop(name)
        visit.last_seconds = now
        self._ended.append(visit)


def _what_keeps_them(scheduler: Scheduler, plan: Plan) -> str:
    """Why somebody waits who did not enter with this plan."""
    if len(scheduler.running) >= scheduler.max_running:
        return "places"
    read = sum(work.count for work in plan.work if work.count > 1)
    if plan.tokens >= scheduler.token_budget or read >= scheduler.chunk_tokens:
        return "token budget"
    return "cache"
