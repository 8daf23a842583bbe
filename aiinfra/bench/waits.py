"""What users wait for: the first token, each next one, the whole answer. All benchmarks have their rows here.

    arrival ──── first token ────► │ next │ next │ … │ next │        whole answer: all of it
                                   └── a token's time: their mean ──┘

Percentiles are `perf.percentile`'s. A goal is met by a request, not by a percentile: goodput counts the
requests whose first token and whose mean time a token were both in time (DistServe, arXiv 2401.09670).
Notebooks 12, 13 and 15.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from aiinfra.bench.load import Served
from aiinfra.bench.row import Row, digits
from aiinfra.perf import percentile

QUANTILES = (50, 90, 99)


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


WAITS: dict[str, Callable[[Sequence[Served]], list[float]]] = {
    "first token": _first_tokens,
    "next token": _next_tokens,
    "whole answer": _whole_answers,
}


class Target(NamedTuple):
    """What a user should wait at most, in seconds: for the first token, and for a token on average."""

    first_token: float
    per_token: float

    def met(self, answer: Served) -> bool:
        """True if this answer, which is whole, came in time."""
        return answer.first_token_seconds <= self.first_token and token_seconds(answer) <= self.per_token

    def __str__(self) -> str:
        return f"first token ≤ {digits(self.first_token)} s, a token ≤ {digits(self.per_token)} s"


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
