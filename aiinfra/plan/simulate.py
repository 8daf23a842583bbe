"""What would the engine do with these requests? Its own scheduler, and a price in place of the model.

    plan ──► cost(plan) seconds, on a clock that nobody waits for ──► commit ──► finish who has all tokens
      └──────────────────────── again, until nobody waits, runs or is to come ──────────────────┘

A scheduler sees only integers, so it can be driven without weights, tensors or a GPU: thousands of steps a
second, in which every decision (who enters, who is pushed out, which blocks) is the one that the engine would
take. Invariant: with the same arrivals by step, records are the engine's own, but for the seconds. Beside the
engine, pages, judges and tests drive a scheduler by this alone; only tests of guesses, and of planning one
step ahead, do it themselves. Where nothing but time passes, leap.py takes many steps at once. The idea of
running the real control plane on a virtual clock is Revati's (arXiv 2601.00397). Notebooks 12, 13 and 18.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

from aiinfra.engine.record import Made, StepRecord
from aiinfra.engine.request import Request
from aiinfra.engine.scheduler import Plan, Scheduler
from aiinfra.errors import plural

StepCost = Callable[[Plan], float]              # seconds that a step takes
NextToken = Callable[[Request], int]            # the id that a request is given next
# After how many tokens each of a request's n answers stops by itself; None: it has all of max_tokens.
Lengths = Sequence[int | None]
_ONE_WHOLE: Lengths = (None,)


@dataclass(frozen=True)
class SimulatedStep(StepRecord):
    """A record of the engine, and when its step began. Its cost stands as model_seconds; the two others are
    0."""

    begin_seconds: float = 0.0

    @property
    def end_seconds(self) -> float:
        """When the step's tokens are there."""
        return self.begin_seconds + self.model_seconds


def one_second(plan: Plan) -> float:
    """The cost where nobody asks for seconds: steps are counted."""
    return 1.0


def any_token(request: Request) -> int:
    """The id where nobody looks for answers in the cache."""
    return 0


def simulate(scheduler: Scheduler, requests: Iterable[Request], arrivals: Iterable[float] | None = None,
             cost: StepCost = one_second, token: NextToken = any_token,
             lengths: Mapping[str, Lengths] | None = None,
             aborts: Mapping[str, float] | None = None) -> Iterator[SimulatedStep]:
    """Serve `requests`, which come at `arrivals` (seconds; all at 0 by default), and yield a record of every
    step.

    cost(plan): the seconds that the step takes, asked before it is committed. token(request): which id is
    made for it; it matters only to who finds a prefix in the cache. lengths, by request id: see `Lengths`; a
    request that is not in it has one answer. aborts: when its user hangs up, by request id. Steps run as they
    are asked for. In between the scheduler may be looked at, and given requests or relieved of them. Raises
    ValueError where `Scheduler.add` does, and for arrivals and requests that are not equally many.
    """
    engine = VirtualEngine(scheduler, cost, token)
    lengths = lengths or {}
    coming = deque(_by_arrival(list(requests), arrivals))
    leaving = deque(sorted((aborts or {}).items(), key=itemgetter(1)))
    while coming or engine.unfinished:
        while coming and coming[0][0] <= engine.clock:
            _, request = coming.popleft()
            engine.add(request, lengths.get(request.id, _ONE_WHOLE))
        while leaving and leaving[0][1] <= engine.clock:
            engine.abort(leaving.popleft()[0])
        if engine.unfinished:
            yield engine.step()
        elif coming:                                    # nobody is there: on to the next arrival
            engine.clock = coming[0][0]


def _by_arrival(requests: list[Request], arrivals: Iterable[float] | None) -> list[tuple[float, Request]]:
    times = [0.0] * len(requests) if arrivals is None else list(arrivals)
    if len(times) != len(requests):
        asked, given = plural(len(requests), "request"), plural(len(times), "arrival")
        raise ValueError(f"{asked}, but {given}: give each request its own.")
    return sorted(zip(times, requests), key=itemgetter(0))       # together: in the order given


def advance(scheduler: Scheduler, token: NextToken = any_token) -> Plan:
    """A single step of `simulate`, for who has something to do between two steps; returns what it ran."""
    plan = scheduler.plan()
    VirtualEngine(scheduler, token=token).settle(plan)
    return plan


@dataclass(eq=False)
class _Answer:
    """One of the n that were asked for under a name; beside the first, `parent` has read their prompt."""

    request: Request
    name: str
    lengths: Lengths = _ONE_WHOLE
    index: int = 0
    parent: Request | None = None

    @property
    def length(self) -> int:
        """Tokens that it has when it ends."""
        most = self.request.max_tokens
        wanted = self.lengths[self.index]
        return most if wanted is None else min(wanted, most)

    def ending(self, made: int) -> str | None:
        """Why it ends with its `made`-th token; None if it goes on."""
        if made == self.lengths[self.index]:
            return "stop"
        return "length" if made == self.request.max_tokens else None


class VirtualEngine:
    """What `engine.engine.Engine` is on a model, on a price: requests come and go between steps, by its
    `clock`."""

    def __init__(self, scheduler: Scheduler, cost: StepCost = one_second,
                 token: NextToken = any_token) -> None:
        self.scheduler = scheduler
        self.cost = cost
        self.token = token
        self.clock = 0.0
        # Who could not enter though nobody read a prompt: it waits for blocks, until somebody ends.
        self.refused: Request | None = None
        self.lines: dict[int, Any] = {}                  # what leap.py knows of the cost; may be shared
        self._answers: dict[Request, _Answer] = {}       # that came through `add` and have not ended

    @property
    def unfinished(self) -> bool:
        """True while somebody waits or runs."""
        return bool(self.scheduler.waiting or self.scheduler.running)

    def add(self, request: Request, lengths: Lengths = _ONE_WHOLE) -> None:
        """Queue a request, with as many answers as `lengths` has places. Raises ValueError if it can never
        fit."""
        self.scheduler.add(request, places=len(lengths))
        self._answers[request] = _Answer(request, request.id, lengths)

    def abort(self, name: str) -> bool:
        """Drop a request with all its answers; False if there is none such (any more)."""
        dropped = [answer for answer in self._answers.values() if answer.name == name]
        for answer in dropped:
            self.finish(answer.request)
        return bool(dropped)

    def step(self) -> SimulatedStep:
        """One step over whoever is there, with its record."""
        begin = self.clock
        plan, made, seconds = self.run()
        return _record(self.scheduler, plan, made, begin, seconds)

    def run(self) -> tuple[Plan, tuple[Made, ...], float]:
        """One step over whoever is there; the clock goes on by its cost. Returns what it ran, the new tokens,
        and the seconds."""
        plan = self.scheduler.plan()
        seconds = self.cost(plan)
        nothing_read = all(work.count == 1 and work.last for work in plan.work)
        made = self.settle(plan)
        self.refused = self._who_was_refused(plan, made) if nothing_read else None
        self.clock += seconds
        return plan, made, seconds

    def _who_was_refused(self, plan: Plan, made: tuple[Made, ...]) -> Request | None:
        moved = plan.admitted or plan.preempted or any(new.finish_reason for new in made)
        if moved:
            return None
        return next(filter(self.scheduler.may_enter, self.scheduler.waiting), None)

    def settle(self, plan: Plan) -> tuple[Made, ...]:
        """The plan has run: everybody whose last token was in it is given the next one, and leaves if that
        was all. In the order of `engine.answers.Answers.commit`."""
        takers = [answer for work in plan.work if work.last for answer in self._open_all(work.request)]
        chosen = {answer.request: self.token(answer.request) for answer in takers}
        self.scheduler.commit(plan, chosen)
        made = [self._take(answer, chosen[answer.request]) for answer in takers]
        for answer, new in zip(takers, made):
            # Who ended with a first token beside the parent's has never come to the scheduler.
            if new.finish_reason and answer.request.arrival is not None:
                self.finish(answer.request)
        return tuple(made)

    def left(self, request: Request) -> int:
        """How many more tokens a running request makes."""
        return self._answer_of(request).length - request.made

    def finish(self, request: Request) -> None:
        """Take it out, and give its blocks back."""
        self.refused = None
        self._answers.pop(request, None)
        self.scheduler.finish(request)

    def _answer_of(self, request: Request) -> _Answer:
        return self._answers.get(request) or _Answer(request, request.id)

    def _open_all(self, request: Request) -> list[_Answer]:
        """The answers whose next token is made from this request's: itself, or all n when their prompt was
        just read."""
        first = self._answer_of(request)
        if request.made:
            return [first]
        others = [_beside(first, index) for index in range(1, len(first.lengths))]
        return [first, *others]

    def _take(self, answer: _Answer, token: int) -> Made:
        """Its new token; who has its first one beside the parent's branches off."""
        request = answer.request
        is_new = answer.parent is not None and request not in self._answers
        reason = answer.ending(1 if is_new else request.made)
        if is_new and not reason:
            self.scheduler.branch(answer.parent, request, answer.index, token)
            self._answers[request] = answer
        return Made(request_id=answer.name, token_id=token, finish_reason=reason, index=answer.index)


def _beside(first: _Answer, index: int) -> _Answer:
    """The answer number `index` to a prompt that the first one has read."""
    parent = first.request
    child = Request(
        id=f"{first.name}#{index}",
        tokens=parent.prompt,
        max_tokens=parent.max_tokens,
        priority=parent.priority,
    )
    return replace(first, request=child, index=index, parent=parent)


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
