"""What became of a load: the figures of one run, at one rate.

    answered │ failed │ hung up │ not heard to the end (Ctrl-C)      percentiles are of the first alone,
                                                                     goodput of those in time

Whoever got no answer is in no percentile, so a server that refuses nine in ten looks quick there: look at
the share in time first, of which a failed request is a part that was not. Notebook 15.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from aiinfra.bench.http import HttpServed
from aiinfra.bench.load import duration
from aiinfra.bench.row import Row, digits
from aiinfra.bench.waits import WAITS, in_time, mean_waits, wait_rows
from aiinfra.errors import plural
from aiinfra.perf import percentile
from aiinfra.plan.latency import QUANTILES, LatencyTarget

KEEPS_UP = 0.9                     # of the requests are in time: DistServe's share
_LATE_SECONDS = 0.05               # requests sent so late are worth a word
_MOST_REASONS = 4


@dataclass(frozen=True)
class LoadRow(Row):
    """A row whose figures are for programs, too: seconds, tokens and requests, by name."""

    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """One run. said: what load it was. rate: requests a second that were offered, None for users who wait.
    asked: how many requests were to be sent; of those in `heard` it is known what became."""

    said: str
    rate: float | None
    asked: int
    heard: list[HttpServed]
    target: LatencyTarget
    interrupted: bool = False

    @property
    def answered(self) -> list[HttpServed]:
        """Those that got their whole answer."""
        return [one for one in self.heard if one.answered]

    @property
    def seconds(self) -> float:
        """From the start of the load to the last token of an answer."""
        return duration(self.answered) if self.answered else 0.0

    @property
    def in_time(self) -> float:
        """The share of the requests, without those that hung up, whose answer met the target."""
        patient = sum(not one.hung_up for one in self.heard)
        return sum(map(self._met, self.answered)) / max(1, patient)

    @property
    def keeps_up(self) -> bool:
        """True if enough of the requests were in time."""
        return self.in_time >= KEEPS_UP

    @property
    def goodput(self) -> float:
        """Answers in time, each second."""
        return self.a_second(self._met)

    def a_second(self, count: Callable[[HttpServed], float]) -> float:
        """The sum of `count` over the answers, each second."""
        return sum(map(count, self.answered)) / self.seconds if self.seconds else 0.0

    @property
    def output_tokens_a_second(self) -> float:
        """Of whole answers."""
        return self.a_second(lambda one: len(one.at_seconds))

    def figures(self) -> dict[str, float]:
        """Everything by its name, for a file; a percentile that nobody has is left out."""
        told: dict[str, float] = {
            "asked": self.asked,
            "answered": len(self.answered),
            "failed": sum(bool(one.failure) for one in self.heard),
            "hung_up": sum(one.hung_up for one in self.heard),
            "seconds": self.seconds,
            "in_time": self.in_time,
            "goodput_per_second": self.goodput,
            "output_tokens_per_second": self.output_tokens_a_second,
            "prompt_tokens_per_second": self.a_second(lambda one: one.prompt_tokens),
            "cached_tokens": sum(one.cached_tokens for one in self.answered),
        }
        if self.rate is not None:
            told["offered_per_second"] = self.rate
        waits = {name.replace(" ", "_"): wait(self.answered) for name, wait in WAITS.items()}
        waits["per_token"] = mean_waits(self.answered)
        for name, values in waits.items():
            told |= {f"{name}_p{q}": percentile(values, q) for q in QUANTILES if values}
        return told

    def rows(self) -> Iterator[Row]:
        """All of a single run."""
        yield from wait_rows(self.answered)
        per_token = mean_waits(self.answered)
        for q in QUANTILES:
            if per_token:
                yield Row(f"mean time a token, P{q}", percentile(per_token, q), "s")
        yield Row("output", self.output_tokens_a_second, "tok/s", note=self._counting())
        yield Row("answers", self.a_second(lambda one: 1), "req/s", note=self._fates())
        yield self.row("goodput", self.goodput, "req/s",
                       f"{self.in_time:.0%} in time: {self.target}")

    def line(self) -> LoadRow:
        """A run among others: its share in time, and the rest as a note."""
        note = self._fates()
        if self.answered:
            waits = f"first token {self._quick('first_token')}"
            if mean_waits(self.answered):
                waits += f", a token {self._quick('per_token')}"
            note = f"{waits} (P50, P99), {digits(self.output_tokens_a_second)} tok/s; {note}"
        return self.row(self.said, 100 * self.in_time, "%", note)

    def row(self, name: str, value: float, unit: str, note: str) -> LoadRow:
        """A row that carries all figures of this run."""
        return LoadRow(name, value, unit, note=note, figures=self.figures())

    def _met(self, answer: HttpServed) -> bool:
        return in_time(answer, self.target)

    def _quick(self, wait: str) -> str:
        figures = self.figures()
        return f"{digits(figures[f'{wait}_p50'])} and {digits(figures[f'{wait}_p99'])} s"

    def _counting(self) -> str:
        """What there is to say about the tokens."""
        if all(one.counted for one in self.answered):
            return ""
        return "the server counts no tokens while it streams: those of a chunk are estimated"

    def _fates(self) -> str:
        """How many of the requests were answered, and what became of the others."""
        fates = [f"{len(self.answered)} of {plural(self.asked, 'request')} answered"]
        if gone := sum(one.hung_up for one in self.heard):
            fates.append(f"{gone} hung up")
        if left := self.asked - len(self.heard):
            fates.append(f"{left} not heard to their end")
        reasons = Counter(one.failure for one in self.heard if one.failure)
        fates += [f"{count} failed: {reason}" for reason, count in reasons.most_common(_MOST_REASONS)]
        late = [one.sent_seconds - one.arrival_seconds for one in self.heard]
        if late and percentile(late, 99) > _LATE_SECONDS:
            fates.append(f"P99 sent {digits(percentile(late, 99))} s late: this machine makes no more load")
        return "; ".join(fates)
