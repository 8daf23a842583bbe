"""What a fleet's run comes to: was it in time, what did it cost, and what held it back?

    visits ──► TTFT, TPOT, ITL percentiles ──► share in time ──► tokens in time ──► dollars a million of them
    queues ──► who waited for what ──────────► which limit binds

`machines_for` turns it round: the fewest replicas that keep a target. Notebook 18.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import inf
from operator import itemgetter

from aiinfra.plan.fleet import MOST_REPLICAS, FleetPlan, FleetRun, serve_fleet
from aiinfra.plan.latency import QUANTILES, Classes, LatencyTarget
from aiinfra.plan.leap import DecodeCost
from aiinfra.plan.replica import Visit
from aiinfra.plan.traffic import Turn
from aiinfra.perf.timing import percentile

_HELD = {
    "places": "max_running: all places of a replica are taken, and requests wait for one",
    "cache": "the KV cache: there are places, but no blocks for another prompt",
    "token budget": "token_budget: prompts wait for their turn to be read",
    "no replica": "start-up: no replica was ready",
}


@dataclass(frozen=True)
class FleetReport:
    """All figures of a run; percentiles by QUANTILES, seconds."""

    requests: int
    failed: int                          # whose replica died while they were answered
    in_time: float                       # the share of all requests that met the target
    seconds: float
    output_tokens_per_second: float
    goodput_per_second: float            # requests in time
    ttft_seconds: dict[int, float]
    tpot_seconds: dict[int, float]
    itl_seconds: dict[int, float]
    cached_share: float                  # of prompt tokens
    most_replicas: int
    gpu_hours: float
    dollars: float
    dollars_per_million: float           # output tokens, of all answers
    score: float                         # dollars a million output tokens in time: see the function
    binds: str

    def as_json(self) -> dict:
        """All of it in plain values; JSON has no infinity: a price that there is not is None."""
        plain = asdict(self)
        return plain | {name: None for name, value in plain.items() if value == inf}

    def lines(self) -> Iterator[str]:
        """All of it for a terminal."""
        yield f"in time          {self.in_time:.2%} of {self.requests:,} requests, {self.failed:,} failed"
        yield f"output           {self.output_tokens_per_second:,.0f} tokens a second"
        yield f"goodput          {self.goodput_per_second:,.2f} requests a second, in time"
        yield f"prompts cached   {self.cached_share:.0%} of their tokens"
        heads = "".join(f"{f'P{q}':>10}" for q in QUANTILES)
        yield f"milliseconds     {heads}"
        waits = {"first token": self.ttft_seconds, "a token, mean": self.tpot_seconds, "next token":
                 self.itl_seconds}
        for name, values in waits.items():
            yield f"{name:17}" + "".join(f"{1e3 * value:10,.1f}" for value in values.values())
        yield f"replicas         at most {self.most_replicas:,}; {self.gpu_hours:,.1f} GPU hours"
        yield (f"price            {self.dollars:,.2f} $, {self.dollars_per_million:,.3f} $ a million output "
               "tokens")
        yield f"what binds       {self.binds}"


def report(run: FleetRun, target: LatencyTarget, dollars_per_gpu_hour: float) -> FleetReport:
    """The figures of a run. Raises ValueError for a price below 0."""
    check_price(dollars_per_gpu_hour)
    answered = [visit for visit in run.visits if not visit.failed]
    good = in_time(run, target)
    tokens = sum(visit.output_tokens for visit in answered)
    hours = run.gpu_seconds / 3600
    dollars = hours * dollars_per_gpu_hour
    return FleetReport(
        requests=len(run.visits),
        failed=len(run.visits) - len(answered),
        in_time=len(good) / len(run.visits),
        seconds=run.seconds,
        output_tokens_per_second=tokens / run.seconds,
        goodput_per_second=len(good) / run.seconds,
        ttft_seconds=_percentiles([visit.ttft_seconds for visit in answered]),
        tpot_seconds=_percentiles([visit.tpot_seconds for visit in answered if visit.output_tokens > 1]),
        itl_seconds=_gaps(run),
        cached_share=sum(v.cached_tokens for v in answered) / max(1, sum(v.prompt_tokens for v in answered)),
        most_replicas=run.most_replicas,
        gpu_hours=hours,
        dollars=dollars,
        dollars_per_million=1e6 * dollars / tokens if tokens else inf,
        score=score(run, target, dollars_per_gpu_hour),
        binds=what_binds(run, target),
    )


def check_price(dollars_per_gpu_hour: float) -> None:
    """Raise ValueError for a price that is none."""
    if not 0 <= dollars_per_gpu_hour < inf:
        raise ValueError(f"dollars_per_gpu_hour={dollars_per_gpu_hour!r}; it must be a number of at least 0.")


def in_time(run: FleetRun, target: LatencyTarget) -> list[Visit]:
    """The visits whose answer was whole, and met the target."""
    return [
        visit for visit in run.visits
        if not visit.failed and target.met(visit.ttft_seconds, visit.tpot_seconds)
    ]


def score(run: FleetRun, target: LatencyTarget, dollars_per_gpu_hour: float) -> float:
    """Dollars for a million output tokens that came in time: less is better. Infinite if fewer requests than
    the target's share were in time: a fleet that breaks its promise is no bargain."""
    good = in_time(run, target)
    if len(good) < target.share * len(run.visits):
        return inf
    tokens = sum(visit.output_tokens for visit in good)
    return 1e6 * run.gpu_seconds / 3600 * dollars_per_gpu_hour / tokens


def what_binds(run: FleetRun, target: LatencyTarget) -> str:
    """Which limit keeps requests from being in time, in words."""
    answered = [visit for visit in run.visits if not visit.failed]
    late = [visit.ttft_seconds for visit in answered if visit.ttft_seconds > target.ttft_seconds]
    slow = sum(visit.tpot_seconds > target.tpot_seconds for visit in answered)
    if not late and not slow:
        return "nothing: every whole answer was in time"
    if slow > len(late):
        return "the time of a step: tokens come too slowly, with however many run beside them"
    queued = sum((replica.queued for replica in run.replicas), Counter({"no replica": run.homeless_seconds}))
    kept, seconds = max(queued.items(), key=itemgetter(1), default=("no replica", 0.0))
    if seconds < sum(late) / 2:
        return "reading prompts: most of the wait for a first token is the prompt's own steps"
    return _HELD[kept]


def machines_for(turns: Sequence[Turn], plan: FleetPlan, cost: DecodeCost, target: LatencyTarget,
                 progress: Callable[[int], object] | None = None) -> FleetRun:
    """The run with the fewest replicas, all there from the start, that keeps the target: twice as many until
    it is kept, then by halves. Raises ValueError if none does."""
    def keeps(replicas: int) -> FleetRun | None:
        run = serve_fleet(turns, replace(plan, replicas=replicas, autoscale=None), cost, progress)
        kept = len(in_time(run, target)) >= target.share * len(run.visits)
        return run if kept else None

    low, high = 0, plan.replicas                       # low: too few
    while (found := keeps(high)) is None:
        low, high = high, 2 * high
        if high > MOST_REPLICAS:
            raise ValueError(f"not even {low:,} replicas keep the target: a request alone is too slow. Take "
                             "a faster machine, more GPUs a replica, or a target that it can keep.")
    while high - low > 1:
        middle = (low + high) // 2
        run = keeps(middle)
        if run is None:
            low = middle
        else:
            found, high = run, middle
    return found


def _percentiles(values: list[float]) -> dict[int, float]:
    return {q: percentile(values, q) for q in QUANTILES} if values else {}


def _gaps(run: FleetRun) -> dict[int, float]:
    together = Classes()
    together.update(replica.gaps for replica in run.replicas)
    return {q: together.percentile(q) for q in QUANTILES} if together.counts else {}
