"""Who asks for what, and when: the requests that a benchmark replays, drawn or read from a file.

    {"prompt_tokens": 57, "output_tokens": 80, "arrival_seconds": 0.4}      57 random tokens
    {"prompt": [504, 2251, 314], "output_tokens": 16}                       these, at second 0
    {"conversation": 7, "prompt_tokens": 90, "output_tokens": 20}           begins like others of number 7

A trace file has one such JSON object a line. Prompts that are drawn begin with different tokens, so that no
two share a prefix and a prefix cache wins nothing by accident; only those of one conversation begin alike.
`load.py` replays them on any server. Notebooks 14 and 18.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aiinfra.plan.turns import read_line

_LATEST = 86_400                                          # seconds: a trace is at most a day
ANY_CONTEXT = 1_000_000                                   # tokens: of a model that is not known
_ANY_VOCABULARY = 1 << 32


@dataclass(frozen=True)
class TraceRequest:
    """A prompt's token ids, how many tokens must be made, and when it arrives (seconds from the start)."""

    prompt: list[int]
    output_tokens: int
    arrival_seconds: float = 0.0


def random_trace(requests: int, vocab_size: int, seed: int = 0, prompt_tokens: tuple[int, int] = (16, 256),
                 output_tokens: tuple[int, int] = (16, 128)) -> list[TraceRequest]:
    """`requests` prompts of random ids, lengths drawn evenly from the two ranges (ends included), all at
    second 0. No two begin with the same token. Raises ValueError for more requests than the vocabulary has
    tokens."""
    rng = random.Random(seed)
    trace = []
    for first in _firsts(rng, requests, vocab_size):
        prompt = _draw(rng, first, rng.randint(*prompt_tokens), vocab_size)
        trace.append(TraceRequest(prompt, rng.randint(*output_tokens)))
    return trace


def prompts(rng: random.Random, lengths: Sequence[int], vocab_size: int) -> list[list[int]]:
    """A prompt of random ids for each of `lengths`; no two begin with the same token. Raises ValueError for
    more prompts than the vocabulary has tokens."""
    firsts = _firsts(rng, len(lengths), vocab_size)
    return [_draw(rng, first, length, vocab_size) for first, length in zip(firsts, lengths)]


def read_trace(path: Path, vocab_size: int, context: int, seed: int = 0) -> list[TraceRequest]:
    """The requests of a trace file, in its order; the prompts that it does not give begin with different
    tokens. Raises ValueError, before anything is drawn, naming a file that cannot be read or a line that is
    wrong: one with more tokens than `context`, too."""
    lines = _lines(path, vocab_size, context)
    drawn = [line for line in lines if "prompt" not in line]
    if drawn:
        _draw_prompts(drawn, random.Random(seed), vocab_size)
    return [
        TraceRequest(line["prompt"], line["output_tokens"], float(line.get("arrival_seconds", 0)))
        for line in lines
    ]


def check_trace(path: Path) -> None:
    """Raise ValueError as `read_trace` does for any model, before one is loaded."""
    _lines(path, _ANY_VOCABULARY, ANY_CONTEXT)


def check_duration(requests: int, per_second: float) -> None:
    """Raise ValueError for a load that would take more than a day."""
    if not per_second > 0:                               # NaN is not, either
        raise ValueError(f"{per_second} requests a second; it must be above 0.")
    seconds = requests / per_second
    if seconds > _LATEST:
        raise ValueError(f"{requests:,} requests at {per_second:g} a second take {seconds:,.0f} s; a load is "
                         f"at most a day, {_LATEST:,} s. Raise the rate, or ask for fewer.")


def check_length(where: str, prompt_tokens: int, output_tokens: int, context: int) -> None:
    """Raise ValueError, beginning with `where`, for a request that is longer than the model's context."""
    limit = f"the model's context is {context:,}"
    if context == ANY_CONTEXT:
        limit = f"no request may have more than {context:,}"
    if prompt_tokens + output_tokens > context:
        raise ValueError(f"{where} has {prompt_tokens:,} tokens in and {output_tokens:,} out; {limit}. "
                         "Shorten it.")


def trace_for(vocab_size: int, context: int, file: Path | None, requests: int,
              seed: int) -> list[TraceRequest]:
    """The requests of `file`, or random ones without one, for a model with this vocabulary and context.
    Raises ValueError as `read_trace`, and for a drawn request that is longer than the context."""
    if file is not None:
        return read_trace(file, vocab_size, context, seed)
    trace = random_trace(requests, vocab_size, seed)
    for i, request in enumerate(trace):
        check_length(f"request {i} of the trace", len(request.prompt), request.output_tokens, context)
    return trace


def poisson_arrivals(trace: Sequence[TraceRequest], per_second: float, seed: int = 0) -> list[TraceRequest]:
    """The same requests, arriving one by one with exponential gaps: an open loop, which does not wait for
    answers."""
    check_duration(len(trace), per_second)
    rng = random.Random(seed)
    clock = 0.0
    arriving = []
    for request in trace:
        clock += rng.expovariate(per_second)
        arriving.append(replace(request, arrival_seconds=clock))
    return arriving


def _draw_prompts(lines: list[dict[str, Any]], rng: random.Random, vocab_size: int) -> None:
    """Give each line its token ids: a conversation has one stream of them, of which a prompt is the
    beginning."""
    longest: dict[object, int] = {}
    for number, line in enumerate(lines):
        stream = line.setdefault("conversation", f"line {number}")
        longest[stream] = max(longest.get(stream, 0), line["prompt_tokens"])
    ids = dict(zip(longest, prompts(rng, list(longest.values()), vocab_size)))
    for line in lines:
        line["prompt"] = ids[line["conversation"]][:line["prompt_tokens"]]


def _draw(rng: random.Random, first: int, length: int, vocab_size: int) -> list[int]:
    others = [rng.randrange(vocab_size) for _ in range(length - 1)]
    return [first, *others]


def _firsts(rng: random.Random, requests: int, vocab_size: int) -> list[int]:
    if not 1 <= requests <= vocab_size:
        raise ValueError(f"{requests} requests; it must be 1 to {vocab_size:,}, so that each can begin "
                         "with a token of its own.")
    return rng.sample(range(vocab_size), requests)


def _lines(path: Path, vocab_size: int, context: int) -> list[dict[str, Any]]:
    lines = [
        _checked(line, f"{path}, line {number}", vocab_size, context)
        for number, line in enumerate(_text(path).splitlines(), 1) if line.strip()
    ]
    if not lines:
        raise ValueError(f"{path} has no requests: a trace is one JSON object a line.")
    return lines


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"the trace {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ValueError(f"the trace {path} is not UTF-8: byte {error.start} is 0x{byte:02X}.") from error


def _checked(line: str, where: str, vocab_size: int, context: int) -> dict[str, Any]:
    """The object of one line of a trace file. `where` begins its error messages."""
    given = read_line(line, where)
    _check_needed(given, where)
    for key in ("prompt_tokens", "output_tokens"):
        if key in given and not _is_whole(given[key], 1, math.inf):
            raise ValueError(f"{where}: {key} is {given[key]!r}; it must be an integer of at least 1.")
    if "conversation" in given and not _is_whole(given["conversation"], 0, math.inf):
        raise ValueError(f"{where}: conversation is {given['conversation']!r}; it must be a whole number of "
                         "at least 0.")
    _check_arrival(given.get("arrival_seconds", 0), where)
    prompt = given.get("prompt", [0])
    _check_prompt(prompt, where, vocab_size)
    check_length(where, given.get("prompt_tokens", len(prompt)), given["output_tokens"], context)
    return given


def _check_needed(given: dict[str, Any], where: str) -> None:
    one_prompt = ("prompt" in given) != ("prompt_tokens" in given)
    if not one_prompt or "output_tokens" not in given:
        raise ValueError(f"{where} needs output_tokens, and either prompt (token ids) or prompt_tokens "
                         "(how many).")


def _check_arrival(arrival: object, where: str) -> None:
    if type(arrival) not in (int, float) or not 0 <= arrival <= _LATEST:                 # false for NaN, too
        raise ValueError(f"{where}: arrival_seconds is {arrival!r}; it must be a number "
                         f"from 0 to {_LATEST:,}.")


def _check_prompt(prompt: object, where: str, vocab_size: int) -> None:
    most = vocab_size - 1
    ids = prompt if isinstance(prompt, list) else []
    if not ids or not all(_is_whole(i, 0, most) for i in ids):
        raise ValueError(f"{where}: prompt must be a list of token ids, at least one, "
                         f"each from 0 to {most:,}.")


def _is_whole(value: object, least: float, most: float) -> bool:
    return type(value) is int and least <= value <= most                    # JSON's true is no number
