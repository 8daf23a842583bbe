"""When requests come, and how long they are: what a load is made of besides its prompts.

    poisson    ─r──rr────r─r───   gaps drawn, exponential: users who do not know of each other
    constant   ─r───r───r───r──   gaps all alike: nothing but the server's own doing makes a queue
    trace      ─rr──────r─r─r──   as a file has them, stretched to another rate if one is given

A length is `128`, `16:256` (drawn evenly, ends included), or `lognormal:MEDIAN:SIGMA:MOST`: many short ones
and a few long, as people write. Notebook 15.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from aiinfra.bench.trace import TraceRequest, check_duration, poisson_arrivals, prompts

ARRIVALS = ("poisson", "constant", "trace")
_LONGEST = 1_000_000                                   # tokens
_MOST_TOKENS = 50_000_000                              # of all prompts: some two gigabytes


class Lengths(NamedTuple):
    """How many tokens: `draw(rng)` says of one request."""

    said: str                                          # as the user wrote it
    draw: Callable[[random.Random], int]


def lengths(text: str) -> Lengths:
    """The distribution that `text` names, in the words of this file's docstring. Raises ValueError."""
    kind, _, rest = text.partition(":")
    try:
        if kind == "lognormal":
            median, sigma, most = rest.split(":")
            draw = _lognormal(int(median), float(sigma), int(most))
        else:
            draw = _even(int(kind), int(rest or kind))
    except ValueError as error:
        raise ValueError(f"{text!r} is no length: write 128, 16:256, or lognormal:MEDIAN:SIGMA:MOST, with "
                         f"whole numbers from 1 to {_LONGEST:,} and a SIGMA of at least 0.") from error
    return Lengths(text, draw)


def drawn_trace(requests: int, vocab_size: int, seed: int, prompt_tokens: Lengths,
                output_tokens: Lengths) -> list[TraceRequest]:
    """`requests` prompts of random ids, all at second 0; no two begin with the same token. Raises ValueError
    for more requests than the vocabulary has tokens, and for more tokens than can be held."""
    rng = random.Random(seed)
    sizes = [(prompt_tokens.draw(rng), output_tokens.draw(rng)) for _ in range(requests)]
    tokens = sum(asked for asked, _ in sizes)
    if tokens > _MOST_TOKENS:
        raise ValueError(f"{requests:,} prompts of {prompt_tokens.said} have {tokens:,} tokens; at most "
                         f"{_MOST_TOKENS:,} are held. Ask for fewer, or for shorter ones.")
    drawn = prompts(rng, [asked for asked, _ in sizes], vocab_size)
    return [TraceRequest(prompt, made) for prompt, (_, made) in zip(drawn, sizes)]


def shared_prefixes(trace: Sequence[TraceRequest], groups: int, tokens: int, vocab_size: int,
                    seed: int = 0) -> list[TraceRequest]:
    """The same requests, each behind one of `groups` beginnings of `tokens` ids, drawn evenly: the system
    prompts of so many products."""
    rng = random.Random(seed)
    beginnings = prompts(rng, [tokens] * groups, vocab_size)
    return [replace(request, prompt=rng.choice(beginnings) + request.prompt) for request in trace]


def arrive(trace: Sequence[TraceRequest], how: str, per_second: float | None,
           seed: int = 0) -> list[TraceRequest]:
    """The same requests at the times of one of `ARRIVALS`. per_second: None is for a trace alone, and keeps
    its times; infinity has all arrive at once. Raises ValueError for a rate that is not above 0, and for a
    trace that has no times to stretch."""
    if per_second == math.inf:
        return [replace(request, arrival_seconds=0.0) for request in trace]
    if how == "trace" and per_second is None:
        return list(trace)
    if per_second is None:
        raise ValueError(f"arrivals={how!r} need a rate, requests a second; it must be above 0.")
    check_duration(len(trace), per_second)
    if how == "poisson":
        return poisson_arrivals(trace, per_second, seed)
    if how == "constant":
        return [replace(request, arrival_seconds=i / per_second) for i, request in enumerate(trace)]
    return _stretched(trace, per_second)


def _stretched(trace: Sequence[TraceRequest], per_second: float) -> list[TraceRequest]:
    last = max(request.arrival_seconds for request in trace)
    if last == 0:
        raise ValueError("the trace has no arrival_seconds to stretch: use --arrivals poisson or constant.")
    factor = len(trace) / per_second / last
    return [replace(request, arrival_seconds=request.arrival_seconds * factor) for request in trace]


def _even(low: int, high: int) -> Callable[[random.Random], int]:
    _check(1 <= low <= high <= _LONGEST)
    return partial(random.Random.randint, a=low, b=high)


def _lognormal(median: int, sigma: float, most: int) -> Callable[[random.Random], int]:
    _check(1 <= median <= most <= _LONGEST and 0 <= sigma < 10)

    def draw(rng: random.Random) -> int:
        length = rng.lognormvariate(math.log(median), sigma)
        return min(max(1, round(length)), most)

    return draw


def _check(holds: bool) -> None:
    if not holds:
        raise ValueError
