"""What users wait for: the first token, each next one, the whole answer. All benchmarks have their rows here.

    arrival ──── first token ────► │ next │ next │ … │ next │        whole answer: all of it
                                   └── a token's time: their mean ──┘

Percentiles are `perf.percentile`'s. A goal is met by a request, not by a percentile: goodput counts the
requests whose first token and whose mean time a token were both in time (DistServe, arXiv 2401.09670).
Notebooks 12, 13 and 15.
"""

from collections.abc import Callable, Iterator, Sequence

from aiinfra.bench.load import Served
from aiinfra.bench.row import Row
from aiinfra.perf import percentile
from aiinfra.plan.latency import QUANTILES, LatencyTarget


def _first_tokens(served: Sequence[Served]) -> list[float]:
    return [answer.first_token_seconds for answer in served]


def _next_tokens(served: Sequence[Served]) -> list[float]:
    return [gap for answer in served for gap in answer.gaps_seconds]


def _whole_answers(served: Sequence[Served]) -> list[float]:
    return [answer.total_seconds for answer in served]


def token_seconds(answer: Served) -> float:
    """Time per output token (TPOT): the mean wait for each token after the first; 0 if there is only one."""
    after_first = len(answer.at_seconds) - 1
    return (answer.at_seconds[-1] - answer.at_seconds[0]) / after_first if after_first else 0.0


def mean_waits(served: Sequence[Served]) -> list[float]:
    """`token_seconds` of those answers that have a second token: one token alone is not waited for."""
    return [token_seconds(answer) for answer in served if len(answer.at_seconds) > 1]


WAITS: dict[str, Callable[[Sequence[Served]], list[float]]] = {
    "first token": _first_tokens,
    "next token": _next_tokens,
    "whole answer": _whole_answers,
}


def in_time(answer: Served, target: LatencyTarget) -> bool:
    """True if this answer, which is whole, met the target."""
    return target.met(answer.first_token_seconds, token_seconds(answer))


def wait_rows(ours: Sequence[Served], rival_name: str = "", theirs: Sequence[Served] = ()) -> Iterator[Row]:
    """A row for each wait and each of `QUANTILES`, beside the rival's if there is one. A wait that nobody had
    (the next token, of answers of one token) has no row."""
    for name, waits in WAITS.items():
        for q in QUANTILES:
            against = {}
            if rival_name:
                against = {"peer": percentile(waits(theirs), q), "peer_name": rival_name}
            if measured := waits(ours):
                yield Row(f"{name}, P{q}", percentile(measured, q), "s", **against)
