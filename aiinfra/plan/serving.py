"""What happens when this model is served so to so many: does it fit, how fast, what binds, at what price?

    Deployment: model, machine, split  ──> what a rank holds, room for KV cache, seconds of a step
    ServingLoad: lengths, clients      ──> steady.py: the real scheduler in a closed loop  ──> ServingAnswer

`size(…)` answers all at once; `sweep` asks it for growing numbers of clients and finds the knee, where the
cache is full: from there on a token takes no longer, but everybody waits. Notebooks 17 and 18.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from math import inf

from aiinfra.config import config
from aiinfra.plan.machine import Efficiency, Machine
from aiinfra.plan.models import ServedModel
from aiinfra.plan.split import PRECISIONS, Holding, ServingSplit, holding_of
from aiinfra.plan.steady import BLOCK_SIZE, ClosedLoop, SteadyState, settle
from aiinfra.plan.step_cost import ServingCost, StepLoad

GRID = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_QUEUED = 0.5                       # requests that wait on average: from here on there is a queue
_MOST_TP = 64
_MOST_TOKENS = 2**27                # of all requests of a group: what a simulation holds in memory


@config
class Deployment:
    """A model on GPUs. Raises ValueError for numbers that cannot be together."""

    model: ServedModel
    machine: Machine
    split: ServingSplit = ServingSplit()
    gpus: int | None = None             # None: one replica
    precision: str = "bf16"
    kv: str = "bf16"
    utilization: float = 0.9            # of a GPU's memory, for weights, cache and work space
    token_budget: int = 8192            # of a step
    max_running: int = 1024             # requests of a group
    drafts: int = 0                     # guesses behind each token,
    accepted: float = 0.0               # of which so many come true on average: stated, not predicted
    efficiency: Efficiency | None = None        # None: the machine's

    def __post_init__(self) -> None:
        self.split.check(self.model)
        if self.gpus is not None and (self.gpus < 1 or self.gpus % self.split.gpus):
            raise ValueError(f"gpus={self.gpus} cannot be divided into replicas of tp · dp = "
                             f"{self.split.gpus}. Choose a multiple of {self.split.gpus}.")
        if not 0 < self.utilization <= 1:
            raise ValueError(f"utilization={self.utilization:g}; it must be above 0 and at most 1 (0.9 is "
                             "usual).")
        if self.drafts < 0 or not 0 <= self.accepted <= self.drafts:
            raise ValueError(f"drafts={self.drafts}, accepted={self.accepted:g}; of so many guesses 0 to all "
                             "come true.")
        if self.max_running < 1 or self.token_budget < self.max_running:
            raise ValueError(f"token_budget={self.token_budget}, max_running={self.max_running}; a step must "
                             "have room for a token of every running request.")

    @property
    def replicas(self) -> int:
        """How many times the model is there."""
        return (self.gpus or self.split.gpus) // self.split.gpus

    @property
    def groups(self) -> int:
        """How many schedulers share the clients: dp groups of all replicas."""
        return self.replicas * self.split.groups

    @property
    def holding(self) -> Holding:
        """Of one rank."""
        return holding_of(self.model, self.machine, self.split, precision=self.precision, kv=self.kv,
                          utilization=self.utilization)

    def has_room(self, load: "ServingLoad") -> bool:
        """True if a request finds room beside the weights."""
        return self.holding.kv_tokens >= load.tokens + BLOCK_SIZE

    def cost(self, context_scale: float = 1.0) -> ServingCost:
        """Seconds of a step of one group."""
        return ServingCost(
            self.model, self.machine, self.split,
            efficiency=self.efficiency,
            precision=self.precision,
            kv=self.kv,
            drafts=self.drafts,
            context_scale=context_scale)


@config
class ServingLoad:
    """What clients ask. Raises ValueError for less than a token, or than a client."""

    input_tokens: int
    output_tokens: int
    concurrency: int = 1                # requests under way at any time
    shared_prefix: int = 0              # of the prompt, the same for all, and found in the cache

    def __post_init__(self) -> None:
        for name in ("input_tokens", "output_tokens", "concurrency"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r}; it must be a whole number of at least 1.")
        if not 0 <= self.shared_prefix < self.input_tokens:
            raise ValueError(f"shared_prefix={self.shared_prefix}; it must be at least 0 and below the "
                             f"prompt's {self.input_tokens} tokens.")

    @property
    def tokens(self) -> int:
        """Of a request at its end."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True)
class ServingAnswer:
    """What `size` found. Times are means; None where it does not fit."""

    deployment: Deployment
    load: ServingLoad
    state: SteadyState | None

    @property
    def fits(self) -> bool:
        """True if the weights fit and a request finds room beside them."""
        return self.state is not None

    @property
    def queued(self) -> bool:
        """True if requests wait because there is no room for them, not because somebody else is served."""
        return self.fits and self.state.waiting >= _QUEUED

    @property
    def busy_groups(self) -> float:
        """By so much the group that was simulated is multiplied: it has its share of the clients, rounded up,
        so that one client of 8 groups keeps one of them busy, and 12 keep 6 busy by twos."""
        if self.queued:
            return self.deployment.groups
        return self.load.concurrency / clients_each(self.deployment, self.load)

    @property
    def requests_per_s(self) -> float:
        """Of all replicas together."""
        return self.state.requests_per_second * self.busy_groups

    @property
    def output_tokens_per_s(self) -> float:
        """Of all replicas together."""
        return self.requests_per_s * self.load.output_tokens

    @property
    def input_tokens_per_s(self) -> float:
        """Of prompts, those that were found in the cache included."""
        return self.requests_per_s * self.load.input_tokens

    @property
    def computed_input_tokens_per_s(self) -> float:
        """Of prompts, those that were run."""
        return self.input_tokens_per_s * (1 - self.state.cached_share)

    @property
    def tpot_seconds(self) -> float:
        """A token, where guesses that come true make several a step."""
        return self.state.tpot_seconds / (1 + self.deployment.accepted)

    def dollars_per_million(self, dollars_per_gpu_hour: float) -> float:
        """Of output tokens, prompts included in the price."""
        gpus = self.deployment.replicas * self.deployment.split.gpus
        return gpus * dollars_per_gpu_hour / 3600 / self.output_tokens_per_s * 1e6

    def as_json(self) -> dict:
        """Plain values."""
        holding = self.deployment.holding
        found = {
            "model": self.deployment.model.name,
            "gpu": self.deployment.machine.name,
            "gpus": self.deployment.replicas * self.deployment.split.gpus,
            "replicas": self.deployment.replicas,
            "split": asdict(self.deployment.split),
            "precision": self.deployment.precision,
            "load": asdict(self.load),
            "fits": self.fits,
            "weight_bytes_per_gpu": holding.weight_bytes,
            "usable_bytes_per_gpu": holding.usable_bytes,
            "kv_bytes_per_token": holding.kv_bytes,
            "kv_tokens": holding.kv_tokens * self.deployment.groups,
        }
        if not self.fits:
            return found | {"ttft_ms": None, "tpot_ms": None, "output_tokens_per_s": None, "bound": "memory",
                            "why": shortage(self.deployment, self.load)}
        return found | self._times()

    def _times(self) -> dict:
        state, groups = self.state, self.busy_groups
        return {
            "ttft_ms": 1e3 * state.ttft_seconds,
            "tpot_ms": 1e3 * self.tpot_seconds,
            "output_tokens_per_s": self.output_tokens_per_s,
            "input_tokens_per_s": self.input_tokens_per_s,
            "computed_input_tokens_per_s": self.computed_input_tokens_per_s,
            "requests_per_s": self.requests_per_s,
            "running": state.running * groups,
            "waiting": state.waiting * groups,
            "queue_ms": 1e3 * state.queue_seconds,
            "queued": self.queued,
            "accepted_guesses": self.deployment.accepted,
            "bound": state.bound,
            "why": why(self),
            "step_ms": 1e3 * state.step_seconds,
            "parts_ms": {f"{name} ({bound})": 1e3 * seconds
                         for (name, bound), seconds in state.parts.items()},
        }


def size(deployment: Deployment, load: ServingLoad) -> ServingAnswer:
    """What this deployment does under this load; `fits` is False if there is no room for a single request.
    Raises ValueError for requests that are longer than the model's context, and for more than can be
    simulated."""
    holding = deployment.holding
    _check_context(deployment.model, load)
    if not deployment.has_room(load):
        return ServingAnswer(deployment, load, state=None)
    clients = clients_each(deployment, load)
    if clients * load.tokens > _MOST_TOKENS:
        most = _MOST_TOKENS // load.tokens * deployment.groups
        raise ValueError(f"concurrency={load.concurrency:,}; at most {most:,} requests of {load.tokens:,} "
                         "tokens are simulated. Ask for fewer: behind the knee more of them only wait.")
    steps = max(1, round(load.output_tokens / (1 + deployment.accepted)))
    # Where guesses come true, the simulated request takes fewer steps, and is shorter than the real one.
    longer = (load.input_tokens + load.output_tokens / 2) / (load.input_tokens + steps / 2)
    loop = ClosedLoop(
        clients=clients,
        input_tokens=load.input_tokens,
        steps=steps,
        kv_tokens=int(holding.kv_tokens / longer),
        shared_prefix=load.shared_prefix,
        token_budget=deployment.token_budget,
        max_running=deployment.max_running)
    return ServingAnswer(deployment, load, state=settle(loop, deployment.cost(longer)))


def _check_context(model: ServedModel, load: ServingLoad) -> None:
    context = model.config.max_position_embeddings
    if load.tokens > context:
        raise ValueError(f"input and output are {load.tokens:,} tokens; the context of {model.name} is "
                         f"{context:,}. Ask for fewer.")


def clients_each(deployment: Deployment, load: ServingLoad) -> int:
    """Of the group that has the most of them."""
    return -(-load.concurrency // deployment.groups)


def size_at_rate(deployment: Deployment, load: ServingLoad, requests_per_s: float) -> ServingAnswer:
    """The same when so many requests a second come: the fewest under way with which as many are answered.
    Raises ValueError for a rate that no number of them reaches: the queue would grow for ever."""
    if not 0 < requests_per_s < inf:
        raise ValueError(f"rate={requests_per_s:g}; it must be a number above 0: requests a second.")
    low, high = 0, 1
    while (answer := size(deployment, replace(load, concurrency=high))).fits:
        if answer.requests_per_s >= requests_per_s:
            break
        if answer.queued:
            most = f"at most {answer.requests_per_s:.3g} requests a second are answered"
            raise ValueError(f"rate={requests_per_s:g}; {most}, the queue would grow for ever. Give it more "
                             "GPUs, or a lower rate.")
        low, high = high, 2 * high
    while answer.fits and high - low > max(1, high // 50):
        middle = (low + high) // 2
        tried = size(deployment, replace(load, concurrency=middle))
        if tried.requests_per_s >= requests_per_s:
            high, answer = middle, tried
        else:
            low = middle
    return answer


def sweep(deployment: Deployment, load: ServingLoad, grid: Iterable[int] = GRID) -> list[ServingAnswer]:
    """The same for each number of clients in `grid`."""
    return [size(deployment, replace(load, concurrency=clients)) for clients in grid]


def knee(answers: Iterable[ServingAnswer]) -> ServingAnswer | None:
    """The last of a sweep before requests queue; None if they queue from the first on."""
    last = None
    for answer in answers:
        if answer.queued or not answer.fits:
            break
        last = answer
    return last


def why(answer: ServingAnswer) -> str:
    """What binds, in a sentence."""
    state = answer.state
    (name, bound), most = max(state.parts.items(), key=lambda item: item[1])
    share = most / state.step_seconds
    said = f"{share:.0%} of a step is {name}, bound by {bound}"
    if not answer.queued:
        return said
    if state.running > answer.deployment.max_running - _QUEUED:
        return f"{said}; max_running lets a group answer {state.running:.0f} at a time, the others are queued"
    return f"{said}; the cache holds {state.running:.0f} requests of a group, the others are queued"


def shortage(deployment: Deployment, load: ServingLoad) -> str:
    """By how much it does not fit, and what would."""
    holding = deployment.holding
    missing = holding.kv_bytes * load.tokens - holding.free_bytes
    would = [name for name, other in _others(deployment) if other.has_room(load)]
    remedy = "No other split or precision that was tried does"
    if would:
        remedy = "What would: " + ", ".join(would)
    weights, request = holding.weight_bytes / 1e9, holding.kv_bytes * load.tokens / 1e9
    usable = holding.usable_bytes / 1e9
    return (f"{missing / 1e9:,.1f} GB a GPU are missing: weights take {weights:,.1f} GB and a request "
            f"{request:,.1f} GB of {usable:,.1f} GB that may be used. {remedy}.")


def _others(deployment: Deployment) -> Iterable[tuple[str, Deployment]]:
    """What else could be tried: more ranks, fewer bits."""
    tp = 2 * deployment.split.tp
    while tp <= min(_MOST_TP, deployment.model.config.num_attention_heads):
        ep = deployment.split.ep
        if ep > 1:
            ep = tp * deployment.split.dp
        with suppress(ValueError):              # what cannot be spread so is no remedy
            split = replace(deployment.split, tp=tp, ep=ep)
            yield f"tp={tp}", replace(deployment, split=split, gpus=None)
        tp *= 2
    bits = PRECISIONS[deployment.precision].matrix_bits
    for name, precision in PRECISIONS.items():
        if precision.matrix_bits < bits:
            yield f"precision={name}", replace(deployment, precision=name)


def prefill_tokens_per_s(deployment: Deployment, length: int, cached: int = 0,
                         tokens: int | None = None) -> float:
    """Prompt tokens a second of a replica that does nothing else, cached ones included, when each group runs
    `tokens` (default: the token budget) of prompts of `length` in a step."""
    tokens = tokens or deployment.token_budget
    prompts = tokens / (length - cached)
    own = length - cached
    pairs = own * (cached + (own + 1) / 2)
    load = StepLoad(tokens=tokens, answers=max(1, int(prompts)), prompt_pairs=prompts * pairs)
    return prompts * length * deployment.split.groups / deployment.cost().seconds(load)


@dataclass(frozen=True)
class ApartAnswer:
    """Replicas that only read prompts, and replicas that only answer."""

    prompt_tokens_per_s: float              # of a replica that reads
    tpot_ms: float
    output_tokens_per_s: float              # of a replica that answers
    readers_per_answerer: float             # replicas, so that neither waits for the other


def size_apart(deployment: Deployment, load: ServingLoad) -> ApartAnswer:
    """What each kind does, with `load.concurrency` under way on one replica that answers. Raises ValueError
    if it has no room for them or a request is longer than the context; moving caches from one to the other is
    not priced."""
    _check_context(deployment.model, load)
    if not deployment.has_room(load):
        raise ValueError(f"{deployment.model.name} does not fit: {shortage(deployment, load)}")
    running = -(-load.concurrency // deployment.split.groups)
    context = load.input_tokens + load.output_tokens // 2
    room = deployment.holding.kv_tokens // context
    if running > room:
        raise ValueError(f"concurrency={load.concurrency}; a replica that answers has room for "
                         f"{room * deployment.split.groups:,}. Lower it, or give it more GPUs.")
    reading = prefill_tokens_per_s(deployment, load.input_tokens, cached=load.shared_prefix)
    seconds = decode_seconds(deployment, running, context)
    answering = load.concurrency / seconds
    wanted = answering / load.output_tokens * load.input_tokens
    return ApartAnswer(
        prompt_tokens_per_s=reading,
        tpot_ms=1e3 * seconds,
        output_tokens_per_s=answering,
        readers_per_answerer=wanted / reading)


def decode_seconds(deployment: Deployment, requests: int, context: int) -> float:
    """A token's seconds where a group does nothing but answer so many requests of this mean context."""
    rows = requests * (1 + deployment.drafts)
    seen = requests * context
    window = requests * min(context, deployment.model.window)
    load = StepLoad(tokens=rows, answers=rows, context=seen, decode_pairs=seen * (1 + deployment.drafts),
                    windowed=window)
    return deployment.cost().seconds(load) / (1 + deployment.accepted)
