"""Many replicas on one clock: what becomes of a day of traffic on a fleet?

    turns ──► router ─┬─► replica 0   the engine's own scheduler, a price in place of a GPU
                      ├─► replica 1
                      └─► replica 2   ✗ fails   ······ another is ready after start_seconds
    every so often: too many waiting? one more. Room for one less? drain it.

A fleet that is given twice as many machines may be better or just dearer; run it and see (fleet_report.py).
Invariants: every visit ends or has failed; the same turns, plan and cost give the same visits, to the bit;
one replica alone is `plan.simulate`. Notebook 18.
"""

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, inf
from operator import attrgetter

from aiinfra.config import config
from aiinfra.engine.blocks import BlockPool
from aiinfra.engine.options import check_steps
from aiinfra.engine.request import Request
from aiinfra.engine.scheduler import Scheduler
from aiinfra.errors import nearest
from aiinfra.plan.leap import DecodeCost, Line
from aiinfra.plan.replica import Replica, Visit
from aiinfra.plan.routers import ROUTERS
from aiinfra.plan.traffic import LONGEST, Turn

MOST_REPLICAS = 4096


@config
class Autoscale:
    """More replicas where many wait, fewer where there is room. Replicas beside `least` come and go."""

    least: int
    most: int
    waiting_each: float = 4.0           # so many in the queue, for each replica, and more are started
    full_after: float = 0.7             # one goes if the others would be no fuller than this
    every_seconds: float = 15.0         # how often that is looked at

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise ValueError(f"least={self.least}, most={self.most}; it must be 1 <= least <= most.")
        if self.most > MOST_REPLICAS:
            raise ValueError(f"most={self.most:,}; at most {MOST_REPLICAS:,} replicas are simulated.")
        if not (self.waiting_each > 0 and 0 < self.full_after <= 1 and self.every_seconds > 0):
            raise ValueError(f"{self}; waiting_each and every_seconds must be above 0, full_after above 0 "
                             "and at most 1.")


@config
class Failure:
    """At this moment the oldest replica that serves dies; another is started in its place."""

    at_seconds: float

    def __post_init__(self) -> None:
        if not 0 <= self.at_seconds < inf:
            raise ValueError(f"at_seconds={self.at_seconds!r}; a failure is at 0 seconds or later.")


@config
class FleetPlan:
    """A fleet of equal replicas: how many, how each is set, and who distributes."""

    replicas: int                       # that are ready at second 0
    blocks: int                         # of cache, of each replica
    gpus_each: int = 1
    router: str = "least loaded"
    block_size: int = 16
    token_budget: int = 2048
    chunk_tokens: int | None = None     # of prompts beside decodes; None: all of the budget
    max_running: int = 256
    prefix_caching: bool = True
    start_seconds: float = 120.0        # until a replica that was asked for serves
    autoscale: Autoscale | None = None
    failures: tuple[Failure, ...] = ()

    def __post_init__(self) -> None:
        for name in ("replicas", "blocks", "gpus_each", "block_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r}; it must be at least 1.")
        if self.router not in ROUTERS:
            known = ", ".join(ROUTERS)
            raise ValueError(f"router={self.router!r} is not known.{nearest(self.router, ROUTERS)} "
                             f"Known: {known}.")
        if not 0 <= self.start_seconds <= LONGEST:
            raise ValueError(f"start_seconds={self.start_seconds!r}; it must be a number from 0 to "
                             f"{LONGEST:,}, a year.")
        if self.replicas > MOST_REPLICAS:
            raise ValueError(f"replicas={self.replicas:,}; at most {MOST_REPLICAS:,} are simulated. Take "
                             "fewer, and a part of the traffic.")
        check_steps(self.token_budget, self.max_running, "continuous", self.chunk_tokens)
        scale = self.autoscale
        if scale is not None and not scale.least <= self.replicas <= scale.most:
            raise ValueError(f"replicas={self.replicas}; autoscale keeps {scale.least} to {scale.most}.")

    def scheduler(self) -> Scheduler:
        """That of a new replica."""
        pool = BlockPool(self.blocks, self.block_size, self.prefix_caching)
        return Scheduler(pool, self.token_budget, self.max_running, chunk_tokens=self.chunk_tokens)


@dataclass(frozen=True)
class FleetRun:
    """What became of the turns; `fleet_report.py` reads it."""

    plan: FleetPlan
    visits: list[Visit]                 # in the order of the turns
    replicas: list[Replica]             # all that there ever were
    seconds: float                      # from second 0 to the last token
    most_replicas: int                  # that were paid for at once
    homeless_seconds: float             # of requests while no replica was ready

    @property
    def gpu_seconds(self) -> float:
        """That were paid for."""
        paid = sum(replica.paid_seconds(self.seconds) for replica in self.replicas)
        return paid * self.plan.gpus_each


def serve_fleet(turns: Sequence[Turn], plan: FleetPlan, cost: DecodeCost,
                progress: Callable[[int], object] | None = None) -> FleetRun:
    """Serve all turns. progress(n): n more visits have ended or failed. Raises ValueError for a turn that can
    never fit."""
    fleet = _Fleet(plan, cost, progress or (lambda count: None))
    return fleet.run(turns)


class _Fleet:
    """The clock, and who does something when."""

    def __init__(self, plan: FleetPlan, cost: DecodeCost, progress: Callable[[int], object]) -> None:
        self.plan = plan
        self.cost = cost
        self.progress = progress
        self.lines: dict[int, Line] = {}            # all replicas have the same cost
        self.route = ROUTERS[plan.router]()
        self.now = 0.0
        self.all: list[Replica] = []
        self.ready: list[Replica] = []              # that visits are sent to
        self.starting = 0
        self.most = 0                               # replicas that were paid for at once
        self.unfinished = 0
        self.homeless: list[tuple[float, Visit]] = []     # since when, who: nobody was ready
        self.homeless_seconds = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple]] = []
        self._count = 0

    def run(self, turns: Sequence[Turn]) -> FleetRun:
        """See serve_fleet."""
        visits = [_visit(number, turn) for number, turn in enumerate(turns)]
        self.unfinished = len(visits)
        self._prepare()
        coming = deque(sorted(visits, key=attrgetter("arrival_seconds")))
        while self.unfinished:
            # Together: who comes is in the queue before a step is planned.
            if coming and not (self._events and self._events[0][0] < coming[0].arrival_seconds):
                visit = coming.popleft()
                self.now = visit.arrival_seconds
                self._send(visit)
            else:
                self.now, _, happen, about = heapq.heappop(self._events)
                happen(*about)
        return FleetRun(
            plan=self.plan,
            visits=visits,
            replicas=self.all,
            seconds=self.now,
            most_replicas=self.most,
            homeless_seconds=self.homeless_seconds)

    def _prepare(self) -> None:
        for _ in range(self.plan.replicas):
            self.ready.append(self._new_replica())
        for failure in self.plan.failures:
            self._at(failure.at_seconds, self._fail)
        if self.plan.autoscale is not None:
            self._at(self.plan.autoscale.every_seconds, self._scale, self.plan.autoscale)

    def _at(self, seconds: float, happen: Callable[..., None], *about: object) -> None:
        self._count += 1                            # together: in the order in which they were planned
        heapq.heappush(self._events, (seconds, self._count, happen, about))

    def _new_replica(self) -> Replica:
        scheduler = self.plan.scheduler()
        replica = Replica(len(self.all), scheduler, self.cost, since_seconds=self.now)
        replica.engine.lines = self.lines
        self.all.append(replica)
        self.most = max(self.most, sum(one.until_seconds is None for one in self.all))
        return replica

    def _start(self) -> None:
        self.starting += 1
        self._at(self.now + self.plan.start_seconds, self._is_ready, self._new_replica())

    def _is_ready(self, replica: Replica) -> None:
        self.starting -= 1
        self.ready.append(replica)
        homeless, self.homeless = self.homeless, []
        for since, visit in homeless:
            self.homeless_seconds += self.now - since
            self._send(visit)

    def _send(self, visit: Visit) -> None:
        if not self.ready:
            self.homeless.append((self.now, visit))
            return
        replica = self.route(visit, self.ready)
        before = replica.wakes
        replica.add(visit, self._request(visit), self.now)
        if replica.wakes != before:
            self._at(replica.wakes, self._wake, replica, replica.wakes)

    def _request(self, visit: Visit) -> Request:
        """As integers. What a block holds is told by conversation and place, so nothing need be hashed; a
        conversation's prompt goes on with the answer before it."""
        prompt = [visit.conversation + 1] * visit.prompt_tokens
        request = Request(str(visit.number), prompt, visit.output_tokens)
        if self.plan.prefix_caching:
            blocks = (visit.prompt_tokens + visit.output_tokens) // self.plan.block_size
            conversation = visit.conversation.to_bytes(8)
            request.digests = [conversation + block.to_bytes(8) for block in range(blocks)]
        return request

    def _wake(self, replica: Replica, planned: float) -> None:
        if replica.wakes != planned:                # a leap that was cut short, or it has died
            return
        ended = replica.wake()
        self._are_done(len(ended))
        if replica.wakes < inf:
            self._at(replica.wakes, self._wake, replica, replica.wakes)
        elif replica.draining:
            replica.until_seconds = self.now

    def _are_done(self, count: int) -> None:
        self.unfinished -= count
        if count:
            self.progress(count)

    def _fail(self) -> None:
        if not self.ready:
            return
        victim = self.ready.pop(0)
        lost = victim.die(self.now)
        self._start()
        self._are_done(sum(visit.failed for visit in lost))
        for visit in lost:
            if not visit.failed:
                self._send(visit)

    def _scale(self, scale: Autoscale) -> None:
        waiting = sum(replica.waiting for replica in self.ready) + len(self.homeless)
        serving = len(self.ready) + self.starting
        if waiting > scale.waiting_each * serving:
            wanted = min(scale.most, ceil(waiting / scale.waiting_each))
            for _ in range(wanted - serving):
                self._start()
        elif not waiting and not self.starting and len(self.ready) > scale.least:
            self._drain_if_spare(scale)
        self._at(self.now + scale.every_seconds, self._scale, scale)

    def _drain_if_spare(self, scale: Autoscale) -> None:
        others = len(self.ready) - 1
        if sum(replica.full for replica in self.ready) > scale.full_after * others:
            return
        spare = min(self.ready, key=lambda replica: len(replica.visits))
        spare.draining = True
        self.ready.remove(spare)
        if spare.wakes == inf:
            spare.until_seconds = self.now


def _visit(number: int, turn: Turn) -> Visit:
    return Visit(
        number=number,
        conversation=turn.conversation,
        arrival_seconds=turn.arrival_seconds,
        prompt_tokens=turn.prompt_tokens,
        output_tokens=turn.output_tokens)
