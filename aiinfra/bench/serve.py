"""`python -m aiinfra bench serve`: load on any server of OpenAI's wire, and what its users wait for.

    --rate 2          one run: percentiles, output, goodput under a target
    --users 8         the same, each waiting for an answer before the next question
    --sweep           rates, doubled until too many are late and then halved in between: where is the knee?

    share in time  100 % ────────────╮
                                     ╰──╮          the knee: the highest rate at which 90 % are in time
                    0 %                 ╰───────► requests a second

Each run has prompts of its own: a server that keeps prefixes would know those of the run before. Notebook 15.
"""

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import field, replace
from pathlib import Path

from tqdm import tqdm

from aiinfra.bench.arrivals import ARRIVALS, Lengths, arrive, drawn_trace, lengths, shared_prefixes
from aiinfra.bench.http import Endpoint, HttpServed
from aiinfra.bench.measured import KEEPS_UP, Measured
from aiinfra.bench.open_loop import closed_loop, open_loop, random_patience
from aiinfra.bench.row import Row
from aiinfra.bench.trace import ANY_CONTEXT, TraceRequest, read_trace
from aiinfra.config import config
from aiinfra.errors import plural
from aiinfra.plan.latency import LatencyTarget

SWEEP_SECONDS = 20                 # of traffic at each rate, at least so many requests
_SWEEP_LEAST = 20
_REQUESTS = 100
_DOUBLINGS, _HALVINGS = 12, 3      # a sweep's steps: to find the knee, and to narrow it
_WARM_REQUEST = (8, 4)             # tokens in and out of the request that goes first


@config
class Load:
    """What is asked of a server. Raises ValueError for what contradicts itself.

    rate: requests a second; None keeps a trace's own. users: so many who wait for their answers, in place of
    a rate. requests: None is 100, or of a sweep SWEEP_SECONDS' worth. trace: a file (`bench.trace`).
    prefixes: (how many, of how many tokens) that prompts begin with. hang_up: the share of the requests whose
    sender leaves within `hang_up_seconds`.
    """

    rate: float | None = 1.0
    users: int | None = None
    requests: int | None = None
    arrivals: str = "poisson"
    trace: Path | None = None
    prompt_tokens: Lengths = field(default_factory=lambda: lengths("16:256"))
    output_tokens: Lengths = field(default_factory=lambda: lengths("16:128"))
    prefixes: tuple[int, int] | None = None
    vocab_size: int = 32_000
    hang_up: float = 0.0
    hang_up_seconds: float = 5.0
    target: LatencyTarget = LatencyTarget(ttft_seconds=2.0, tpot_seconds=0.1)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.arrivals not in ARRIVALS:
            raise ValueError(f"arrivals={self.arrivals!r}; it must be one of {', '.join(ARRIVALS)}.")
        if self.arrivals == "trace" and self.trace is None:
            raise ValueError("arrivals are a trace's, and there is no trace: name its file.")
        if self.users is not None and self.hang_up:
            raise ValueError("users who wait for their answers do not hang up: give a rate, or no hang_up.")
        if not 0 <= self.hang_up <= 1:
            raise ValueError(f"hang_up={self.hang_up:g}; it is a share: 0 to 1.")
        for name in ("users", "requests"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}; it must be at least 1.")

    def check(self, rates: Sequence[float] | None = None) -> None:
        """Draw the first run at each of these rates, or at its own, and forget it: raises ValueError for a
        trace that is wrong, for more than can be held, and for a load of more than a day."""
        for rate in rates or [self.rate]:
            self.requests_of(0, rate, self.count(rate, sweeping=rates is not None))

    def count(self, rate: float | None, sweeping: bool) -> int:
        """How many requests a run has, if no file says which."""
        if self.requests is not None or not sweeping:
            return self.requests or _REQUESTS
        wanted = max(_SWEEP_LEAST, math.ceil((rate or 1.0) * SWEEP_SECONDS))
        return min(wanted, self.vocab_size)               # each begins with a token of its own

    def requests_of(self, run: int, rate: float | None, count: int) -> list[TraceRequest]:
        """The requests of the run-th run: `count` of them, if no file says which."""
        seed = self.seed + run
        if self.trace is not None:
            trace = read_trace(self.trace, self.vocab_size, ANY_CONTEXT, seed)
        else:
            trace = drawn_trace(count, self.vocab_size, seed, self.prompt_tokens, self.output_tokens)
        if self.prefixes is not None:
            groups, tokens = self.prefixes
            trace = shared_prefixes(trace, groups, tokens, self.vocab_size, seed)
        return trace if self.users else arrive(trace, self.arrivals, rate, seed)


class LoadTest:
    """Runs of `load` on an endpoint, one after another; `runs` has what they measured."""

    def __init__(self, endpoint: Endpoint, load: Load) -> None:
        self.endpoint = endpoint
        self.load = load
        self.runs: list[Measured] = []

    def rows(self) -> Iterator[Row]:
        """One run. After Ctrl-C the rows are of what had been answered, and then KeyboardInterrupt is
        raised. Raises ConnectionError if a first, unmeasured request gets no answer."""
        self._warm()
        measured = self._run(self.load.rate, self.load.count(self.load.rate, sweeping=False))
        yield from measured.rows()
        if measured.interrupted:
            raise KeyboardInterrupt

    def sweep(self, rates: list[float] | None = None) -> Iterator[Row]:
        """A row for each rate, those given or as many as find the knee; and the knee. Raises as `rows`."""
        self._warm()
        for measured in map(self._at, rates) if rates else find_knee(self._at, self.load.rate or 1.0):
            yield measured.line()
            if measured.interrupted:
                raise KeyboardInterrupt
        yield knee_row(self.runs)

    def _at(self, rate: float) -> Measured:
        return self._run(rate, self.load.count(rate, sweeping=True))

    def _run(self, rate: float | None, count: int) -> Measured:
        load = self.load
        trace = load.requests_of(len(self.runs), rate, count)
        heard: dict[int, HttpServed] = {}
        interrupted = False
        with tqdm(total=len(trace), desc=self._said(rate), unit="req", disable=None) as bar:
            def answered(i: int, one: HttpServed) -> None:
                heard[i] = one
                bar.update()

            try:
                asyncio.run(self._send(trace, answered))
            except KeyboardInterrupt:
                interrupted = True
        measured = Measured(
            said=self._said(rate),
            rate=None if load.users else rate,
            asked=len(trace),
            heard=[heard[i] for i in sorted(heard)],
            target=load.target,
            interrupted=interrupted,
        )
        self.runs.append(measured)
        return measured

    async def _send(self, trace: list[TraceRequest], answered: Callable[[int, HttpServed], None]) -> None:
        load = self.load
        async with self.endpoint as endpoint:
            if load.users:
                await closed_loop(endpoint, trace, answered, load.users)
            else:
                leave = random_patience(len(trace), load.hang_up, load.hang_up_seconds, load.seed)
                await open_loop(endpoint, trace, answered, leave)

    def _said(self, rate: float | None) -> str:
        if self.load.users:
            return plural(self.load.users, "user")
        return "as the trace has it" if rate is None else f"{rate:.4g} requests/s"

    def _warm(self) -> None:
        asked, made = _WARM_REQUEST
        prompt = list(range(1, 1 + asked))
        first: list[HttpServed] = []
        request = TraceRequest(prompt, made)
        alone = LoadTest(self.endpoint, replace(self.load, hang_up=0.0))
        asyncio.run(alone._send([request], lambda _, one: first.append(one)))
        if not first[0].answered:
            raise ConnectionError(f"{self.endpoint.url} does not serve a first, short request: "
                                  f"{first[0].failure}.")


def find_knee(run: Callable[[float], Measured], rate: float) -> Iterator[Measured]:
    """Runs at rates that close in on the knee from `rate`: doubled while the server keeps up, halved while it
    does not; once it lies between two, in between."""
    good, bad = 0.0, math.inf
    halvings = 0
    for _ in range(_DOUBLINGS + _HALVINGS):
        measured = run(rate)
        yield measured
        if measured.interrupted:
            return
        if measured.keeps_up:
            good = rate
        else:
            bad = rate
        if not good:
            rate = bad / 2
        elif math.isinf(bad):
            rate = good * 2
        elif halvings < _HALVINGS:
            halvings += 1
            rate = math.sqrt(good * bad)
        else:
            return


def knee_row(runs: list[Measured]) -> Row:
    """The highest rate that the server kept up with, below the lowest that it did not."""
    lowest_bad = min((one.rate for one in runs if not one.keeps_up), default=math.inf)
    good = [one for one in runs if one.keeps_up and one.rate < lowest_bad]
    if not good:
        return Row("knee", None, "req/s", note=f"below {lowest_bad:.4g}: no rate was kept up with")
    knee = max(good, key=lambda one: one.rate)
    note = f"the highest rate with {KEEPS_UP:.0%} in time: {knee.target}"
    if math.isinf(lowest_bad):
        note = f"or above: every rate had {KEEPS_UP:.0%} in time"
    return knee.row("knee", knee.rate, "req/s", note)
