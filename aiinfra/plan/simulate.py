"""What would the engine do with these requests? Its own scheduler, and a price in place of the model.

    plan ──► cost(plan) seconds, on a clock that nobody waits for ──► commit ──► finish who has all tokens
      └──────────────────────── again, until nobody waits, runs or is to come ──────────────────┘

A scheduler sees only integers, so it can be driven without weights, tensors or a GPU: thousands of steps a
second, in which every decision (who enters, who is pushed out, which blocks) is the one that the engine would
take. Invariant: with the same arrivals by step, records are the engine's own, but for the seconds. Beside the
engine, pages, judges and tests drive a scheduler by this alone; only tests of guesses, and of planning one
step ahead, do it themselves. The idea of running the real control plane on a virtual clock is Revati's (arXiv
2601.00397). Notebooks 12 and 13.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter

from aiinfra.engine.record import Made, StepRecord
from aiinfra.engine.request import Request
from aiinfra.engine.scheduler import Plan, Scheduler
from aiinfra.errors import plural

StepCost = Callable[[Plan], float]              # seconds that a step takes
NextToken = Callable[[Request], int]            # the id that a request is given next


@dataclass(frozen=True)
class SimulatedStep(StepRecord):
    """A record of the engine, and when its step began. Its cost stands as model_seconds; the two others are
    0."""

    begin_seconds: float = 0.0

    @property
    def end_seconds(self) -> float:
        """When the step's tokens are there."""
        return self.begin_seconds + self.model_seconds


def _one_second(plan: Plan) -> float:
    return 1.0


def _any_token(request: Request) -> int:
    return 0


def simulate(scheduler: Scheduler, requests: Iterable[Request], arrivals: Iterable[float] | None = None,
             cost: StepCost = _one_second, token: NextToken = _any_token) -> Iterator[SimulatedStep]:
    """Serve `requests`, which come at `arrivals` (seconds; all at 0 by default), and yield a record of every
    step.

    cost(plan): the seconds that the step takes, asked before it is committed. token(request): which id is
    made for it; it matters only to who finds a prefix in the cache. Steps run as they are asked for. In
    between the scheduler may be looked at, and given requests or relieved of them. Raises ValueError where
    `Scheduler.add` does, and for arrivals and requests that are not equally many.
    """
    coming = deque(_by_arrival(list(requests), arrivals))
    clock = 0.0
    while coming or scheduler.waiting or scheduler.running:
        while coming and coming[0][0] <= clock:
            scheduler.add(coming.popleft()[1])
        if not (scheduler.waiting or scheduler.running):          # nobody is there: on to the next arrival
            clock = coming[0][0]
            continue
        plan = scheduler.plan()
        seconds = cost(plan)
        made = _settle(scheduler, plan, token)
        yield _record(scheduler, plan, made, clock, seconds)
        clock += seconds


def _by_arrival(requests: list[Request], arrivals: Iterable[float] | None) -> list[tuple[float, Request]]:
    times = [0.0] * len(requests) if arrivals is None else list(arrivals)
    if len(times) != len(requests):
        asked, given = plural(len(requests), "request"), plural(len(times), "arrival")
        raise ValueError(f"{asked}, but {given}: give each request its own.")
    return sorted(zip(times, requests), key=itemgetter(0))       # together: in the order given


def advance(scheduler: Scheduler, token: NextToken = _any_token) -> Plan:
    """A single step of `simulate`, for who has something to do between two steps; returns what it ran."""
    plan = scheduler.plan()
    _settle(scheduler, plan, token)
    return plan


def _settle(scheduler: Scheduler, plan: Plan, token: NextToken) -> tuple[Made, ...]:
    """The plan has run: everybody whose last token was in it is given the next one, and leaves if that was
    all."""
    due = [work.request for work in plan.work if work.last]
    chosen = {request: token(request) for request in due}
    scheduler.commit(plan, chosen)
    made = []
    for request in due:
        ended = request.made == request.max_tokens
        if ended:
            scheduler.finish(request)
        made.append(Made(request.id, chosen[request], "length" if ended else None))
    return tuple(made)


def _record(scheduler: Scheduler, plan: Plan, made: tuple[Made, ...], begin: float,
            seconds: float) -> SimulatedStep:
    pool = scheduler.pool
    return SimulatedStep(
        ran=tuple((work.request.id, work.start, work.count) for work in plan.work),
        made=made,
        admitted=tuple(request.id for request in plan.admitted),
        preempted=tuple(request.id for request in plan.preempted),
        waiting=len(scheduler.waiting),
        free_blocks=pool.free,
        cached_blocks=pool.cached,
        used_blocks=pool.used,
        plan_seconds=0.0,
        model_seconds=seconds,
        sample_seconds=0.0,
        begin_seconds=begin,
    )
