"""What a replica settles down to when so many clients always ask: the real scheduler, until nothing changes.

    n clients, each sends its next request when its last is answered      (a closed loop)
    at the start they stand at evenly spread places of their answers  ──> settled after one reading of prompts

Not a second queueing model: scheduler, blocks and preemptions are the engine's, a cost stands for the GPU.
Waiting times come from Little's law, which holds for any queue in a steady state: time spent somewhere =
requests there on average / requests a second. So a window of steps that sees a few prompts is enough, however
long a request waits. Notebook 18.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from aiinfra.engine.blocks import BlockPool
from aiinfra.engine.request import Request
from aiinfra.engine.scheduler import Plan, Scheduler
from aiinfra.plan.simulate import SimulatedStep, simulate
from aiinfra.plan.step_cost import ServingCost

BLOCK_SIZE = 16                         # tokens in a block of the cache
_GOLDEN = 0.6180339887498949            # multiples of it, without their whole parts, are in no order
_PROMPTS = 12                           # that a window sees, if there are so many clients,
_STEPS = 64                             # and so many steps


@dataclass(frozen=True)
class ClosedLoop:
    """What the clients of one group of ranks do, and what its scheduler may do."""

    clients: int
    input_tokens: int
    steps: int                          # tokens of an answer, or fewer where guesses come true
    kv_tokens: int                      # room of the cache
    shared_prefix: int = 0              # tokens at the beginning of all prompts that are the same
    token_budget: int = 8192
    max_running: int = 1024

    @property
    def tokens(self) -> int:
        """Of a request at its end."""
        return self.input_tokens + self.steps


@dataclass(frozen=True)
class SteadyState:
    """Means over a window of steps. Seconds, tokens and requests of one group."""

    ttft_seconds: float                 # waiting and reading
    queue_seconds: float                # of it, before the first token of the prompt was read
    tpot_seconds: float                 # a step, for who is being answered
    requests_per_second: float
    running: float
    waiting: float
    cached_share: float                 # of prompts' tokens, found in the cache
    preemptions: int
    parts: dict[tuple[str, str], float]         # (name, bound): seconds of a mean step

    @property
    def step_seconds(self) -> float:
        """Of a mean step."""
        return sum(self.parts.values())

    @property
    def bound(self) -> str:
        """What most of a step's time goes to."""
        by_bound: Counter[str] = Counter()
        for (_, bound), seconds in self.parts.items():
            by_bound[bound] += seconds
        return by_bound.most_common(1)[0][0]


@dataclass
class _Window:
    """Sums over steps."""

    seconds: float = 0.0
    tokens: int = 0                     # after the first of an answer
    first_tokens: int = 0
    answering: float = 0.0              # requests · seconds
    reading: float = 0.0
    queued: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    preemptions: int = 0
    steps: int = 0
    parts: Counter = field(default_factory=Counter)


def settle(loop: ClosedLoop, cost: ServingCost) -> SteadyState:
    """Run until it has settled, then watch. Raises ValueError if not even one request has room."""
    watched = _Watched(loop, cost)
    watched.warm_up()
    return _means(watched.watch(), loop)


class _Watched:
    """A scheduler, its clients, and what has been seen since `watch` began."""

    def __init__(self, loop: ClosedLoop, cost: ServingCost) -> None:
        self.loop, self.cost = loop, cost
        self.window = _Window()
        self.requests: dict[str, Request] = {}
        self.asked = 0
        self.scheduler = self._scheduler()
        begun = self._first_clients()
        self.simulated = simulate(self.scheduler, begun, cost=self._price)

    def warm_up(self) -> None:
        """Let all read their prompts at once who find room, whatever a step may usually do; and where others
        wait, let them find out how many have room for their answers, too."""
        scheduler = self.scheduler
        usual = scheduler.token_budget
        scheduler.token_budget = scheduler.chunk_tokens = self.loop.clients * self.loop.tokens
        for _ in self._steps():
            if all(request.made for request in scheduler.running):
                break
        scheduler.token_budget = scheduler.chunk_tokens = usual
        if scheduler.waiting:
            for _, _ in zip(range(min(self.loop.steps, _STEPS)), self._steps()):
                pass
        self.window = _Window()

    def watch(self) -> _Window:
        """Sums from one first token of an answer to another, with as many between as clients who run, or
        `_PROMPTS`: so prompts and answers stand in the ratio that they have in the long run."""
        enough = min(len(self.scheduler.running), _PROMPTS)
        for _ in self._steps():
            if self.window.first_tokens:
                break
        self.window = _Window()
        before = 0
        for step in self._steps():
            self.window.seconds += step.model_seconds
            begun = self.window.first_tokens > before
            before = self.window.first_tokens
            if begun and before >= enough and self.window.steps >= _STEPS:
                break
        return self.window

    def _scheduler(self) -> Scheduler:
        loop = self.loop
        needed = loop.clients * (loop.tokens + BLOCK_SIZE)
        blocks = min(loop.kv_tokens, needed) // BLOCK_SIZE
        pool = BlockPool(max(1, blocks), BLOCK_SIZE, prefix_caching=loop.shared_prefix > 0)
        return Scheduler(pool, token_budget=loop.token_budget,
                         max_running=min(loop.max_running, loop.token_budget))

    def _first_clients(self) -> list[Request]:
        """At evenly spread places of their answers, in no order; who will have to wait, at the beginning."""
        loop = self.loop
        mean = loop.input_tokens + loop.steps / 2
        room = min(loop.clients, loop.max_running, int(self.scheduler.pool.total * BLOCK_SIZE / mean))
        places = sorted(range(room), key=lambda client: client * _GOLDEN % 1)
        begun = [self._request(place * loop.steps // room) for place in places]
        return begun + [self._request() for _ in range(loop.clients - room)]

    def _request(self, made: int = 0) -> Request:
        """The next one; it has `made` so many tokens already, and gives them in as a part of its prompt."""
        self.asked += 1
        own = self.loop.input_tokens - self.loop.shared_prefix + made
        tokens = [0] * self.loop.shared_prefix + [self.asked] * own
        request = Request(str(self.asked), tokens, self.loop.steps - made)
        self.requests[request.id] = request
        return request

    def _price(self, plan: Plan) -> float:
        seconds = 0.0
        for part in self.cost.explain(plan):
            self.window.parts[part.name, part.bound] += part.seconds
            seconds += part.seconds
        return seconds

    def _steps(self) -> Iterator[SimulatedStep]:
        """Steps, counted; whoever has been answered asks again."""
        for step in self.simulated:
            self._count(step)
            for made in step.made:
                if made.finish_reason is not None:
                    del self.requests[made.request_id]
                    self.scheduler.add(self._request())
            yield step

    def _count(self, step: SimulatedStep) -> None:
        window, scheduler = self.window, self.scheduler
        window.steps += 1
        ended = sum(made.finish_reason is not None for made in step.made)
        begun = [made for made in step.made if self.requests[made.request_id].made == 1]
        answering = len(step.made) - len(begun)
        reading = len(scheduler.running) + ended - answering
        pushed_out = sum(request.made > 0 for request in scheduler.waiting)
        window.first_tokens += len(begun)
        window.tokens += answering
        window.answering += (answering + pushed_out) * step.model_seconds
        window.reading += reading * step.model_seconds
        window.queued += (len(scheduler.waiting) - pushed_out) * step.model_seconds
        window.preemptions += len(step.preempted)
        for made in begun:
            request = self.requests[made.request_id]
            window.prompt_tokens += request.prompt_tokens
            window.cached_tokens += request.cached_tokens


def _means(window: _Window, loop: ClosedLoop) -> SteadyState:
    """By Little's law. Answers are counted by their tokens: of these there are most."""
    requests = (window.first_tokens + window.tokens) / loop.steps
    queued, reading = window.queued / requests, window.reading / requests
    steps = {part: seconds / window.steps for part, seconds in window.parts.items()}
    return SteadyState(
        ttft_seconds=queued + reading,
        queue_seconds=queued,
        tpot_seconds=window.answering / max(1, window.tokens),
        requests_per_second=requests / window.seconds,
        running=(window.answering + window.reading) / window.seconds,
        waiting=window.queued / window.seconds,
        cached_share=window.cached_tokens / max(1, window.prompt_tokens),
        preemptions=window.preemptions,
        parts=steps)
