"""Who comes when, and with how much? Requests to a chat service, drawn from what services have published.

    conversation 7   [ question ] answer                        a prompt holds all that was said before:
                     [ question   answer   question ] answer    it begins with the prompt of the turn before
    beginnings       in bursts; fewer by night than by day

Where each figure comes from:

    lengths of first prompts and of answers   data/conversation_lengths.csv: 200 requests of Azure, 2023
    bursts: gaps are Gamma of shape 1/2       BurstGPT (arXiv 2401.17644) and its generator; ServeGen (arXiv
                                              2505.09999) finds Gamma and Weibull better than Poisson, too
    peak of the day 278 / 226.75 of its mean  nodes of DeepSeek's V3/R1 service, 27-28 February 2025
    how often somebody asks again             so that 56.3 % of prompt tokens were sent before, as there

Ours, for want of a published figure: the day is one cosine, a further question is as long as the shortest
prompts of that list, and people pause for a minute on average before they ask again. Arrivals do not wait for
answers (an open loop). Invariant: the same shape and seed give the same requests, to the byte. Notebook 18.

    python -m aiinfra.plan.traffic           writes data/traces/ again
"""

import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from aiinfra import files
from aiinfra.config import config
from aiinfra.engine.request import Request

_DATA = Path(__file__).resolve().parents[2] / "data"
_DAY = 86_400.0
_SHORTEST = 10                    # a further question is as long as one of the shortest tenth of prompts
_MILLI = 3                        # times are told to the millisecond
LONGEST = 366 * 86_400            # seconds of a trace
_MOST_REQUESTS = 20_000_000       # of a trace, in memory


@dataclass(frozen=True)
class Turn:
    """One request. Of its prompt, the first `shared_tokens` were the whole prompt of the turn before."""

    arrival_seconds: float
    conversation: int
    prompt_tokens: int
    output_tokens: int
    shared_tokens: int = 0


@config
class TrafficShape:
    """What is drawn. Raises ValueError for what cannot be."""

    seconds: float                        # how long the trace is
    # Requests, on average; fewer where it is short beside pauses, since nobody asks again who came before it.
    per_second: float
    day_seconds: float = _DAY             # a day may be told in minutes; a trace begins at midnight
    peak: float = 278 / 226.75            # the rate at noon over its mean; 1: the same all day
    burst: float = 0.5                    # shape of the gaps' Gamma distribution; 1: Poisson
    again: float = 0.56                   # how often somebody who has an answer asks again
    pause_seconds: float = 60.0           # between two turns, on average
    scale: float = 1.0                    # of all lengths, for models whose context is short
    context: int = 8192                   # a conversation ends before it outgrows it

    def __post_init__(self) -> None:
        for name in ("seconds", "per_second", "day_seconds", "burst", "pause_seconds", "scale", "context"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"{name}={value!r}; it must be above 0, and finite.")
        if self.seconds > LONGEST:
            raise ValueError(f"seconds={self.seconds:,.0f}; a trace is at most a year, {LONGEST:,}.")
        if self.seconds * self.per_second > _MOST_REQUESTS:
            raise ValueError(f"seconds={self.seconds:,.0f}, per_second={self.per_second:,g}; at most "
                             f"{_MOST_REQUESTS:,} requests are drawn. Make one of them smaller.")
        if not 1 <= self.peak <= 2:
            raise ValueError(f"peak={self.peak!r}; a cosine that stays above 0 has 1 to 2 times its mean.")
        if not 0 <= self.again < 1:
            raise ValueError(f"again={self.again!r}; it must be 0 or more, and below 1.")


# What is committed in data/traces/. The first is for small models on a laptop: lengths are an eighth.
TRACES = {
    "laptop": TrafficShape(
        seconds=60, per_second=1.0, peak=1, pause_seconds=10, scale=1 / 8, context=1024),
    "quarter_hour": TrafficShape(seconds=900, per_second=1.0, peak=1),
    "day_in_minutes": TrafficShape(
        seconds=720, per_second=4.0, day_seconds=720, pause_seconds=20),
}


def draw(shape: TrafficShape, seed: int = 0) -> list[Turn]:
    """All requests of the trace, in order of arrival; conversations are numbered by their beginning."""
    rng = random.Random(seed)
    lengths = published_lengths()
    turns: list[Turn] = []
    for number, begin in enumerate(_beginnings(shape, rng)):
        turns += _conversation(shape, rng, lengths, number, begin)
    within = [turn for turn in turns if turn.arrival_seconds < shape.seconds]
    return sorted(within, key=lambda turn: turn.arrival_seconds)


def at_rate(turns: Sequence[Turn], per_second: float) -> list[Turn]:
    """The same requests, told faster or slower: by the last arrival, exactly so many have come a second. So
    two rates differ in nothing else. Raises ValueError for a rate that is not above 0, and for turns that all
    come at second 0 or are not there."""
    last = max((turn.arrival_seconds for turn in turns), default=0.0)
    if not (per_second > 0 and last > 0):
        raise ValueError(f"per_second={per_second!r}, last arrival at {last} s; both must be above 0.")
    factor = len(turns) / per_second / last
    return [replace(turn, arrival_seconds=factor * turn.arrival_seconds) for turn in turns]


def published_lengths() -> list[tuple[int, int]]:
    """(prompt, answer) tokens of Azure's requests."""
    text = (_DATA / "conversation_lengths.csv").read_text(encoding="utf-8")
    rows = [line.split(",") for line in text.splitlines() if line[:1].isdigit()]
    return [(int(prompt), int(answer)) for prompt, answer in rows]


def _beginnings(shape: TrafficShape, rng: random.Random) -> Iterator[float]:
    """When conversations begin: bursts on a clock that runs fast by day and slowly by night."""
    per_second = shape.per_second * (1 - shape.again)              # a conversation has 1 / (1 - again) turns
    clock = 0.0
    while True:
        clock += rng.gammavariate(shape.burst, 1 / shape.burst) / per_second
        begin = _at(shape, clock)
        if begin >= shape.seconds:
            return
        yield begin


def _passed(shape: TrafficShape, seconds: float) -> float:
    """What the clock of arrivals shows: the integral of the day's curve, whose mean is 1."""
    swing = (shape.peak - 1) * shape.day_seconds / math.tau
    return seconds - swing * math.sin(math.tau * seconds / shape.day_seconds)


def _at(shape: TrafficShape, clock: float) -> float:
    """When that clock shows `clock`, by halving."""
    low, high = clock - shape.day_seconds, clock + shape.day_seconds
    for _ in range(60):
        middle = (low + high) / 2
        if _passed(shape, middle) < clock:
            low = middle
        else:
            high = middle
    return high


def _conversation(shape: TrafficShape, rng: random.Random, lengths: list[tuple[int, int]], number: int,
                  begin: float) -> Iterator[Turn]:
    """Its turns, until nobody asks again or the context is full."""
    questions = sorted(prompt for prompt, _ in lengths)[:len(lengths) // _SHORTEST]
    prompt, answer = _scaled(shape, rng.choice(lengths))
    shared, at = 0, begin
    while prompt + answer <= shape.context:
        yield Turn(
            arrival_seconds=round(at, _MILLI),
            conversation=number,
            prompt_tokens=prompt,
            output_tokens=answer,
            shared_tokens=shared)
        if rng.random() >= shape.again:
            return
        at += rng.expovariate(1 / shape.pause_seconds)
        shared = prompt
        question, answered = rng.choice(questions), answer
        _, answer = _scaled(shape, rng.choice(lengths))
        prompt += answered + max(1, round(shape.scale * question))


def _scaled(shape: TrafficShape, length: tuple[int, int]) -> tuple[int, int]:
    prompt, answer = length
    return max(1, round(shape.scale * prompt)), max(1, round(shape.scale * answer))


def as_requests(turns: list[Turn]) -> list[Request]:
    """For a simulation, where a token is no more than a mark: all of a conversation's are its number and one,
    so that a prompt begins like the one before it, and like no other; 0 is what a simulated answer says."""
    requests = []
    for i, turn in enumerate(turns):
        prompt = [turn.conversation + 1] * turn.prompt_tokens
        requests.append(Request(id=str(i), tokens=prompt, max_tokens=turn.output_tokens))
    return requests


def as_lines(turns: list[Turn]) -> str:
    """The file of a trace: a JSON object a line, as `bench/trace.py` reads it."""
    return "".join(json.dumps(_written(turn)) + "\n" for turn in turns)


def _written(turn: Turn) -> dict[str, float]:
    content = asdict(turn)
    del content["shared_tokens"]                     # follows from the turn before
    return content


def write_all(folder: Path = _DATA / "traces") -> None:
    """Write every trace of the table, each whole or not at all, and say how many requests it has."""
    for name, shape in TRACES.items():
        turns = draw(shape)
        files.write_text(folder / f"{name}.jsonl", as_lines(turns))
        print(f"{name}.jsonl: {len(turns):,} requests in {shape.seconds:,.0f} s")


if __name__ == "__main__":
    write_all()
