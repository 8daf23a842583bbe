"""Who asks for what, and when: the requests that a benchmark replays, on any server.

    {"prompt_tokens": 57, "output_tokens": 80, "arrival_seconds": 0.4}      57 random tokens
    {"prompt": [504, 2251, 314], "output_tokens": 16}                       these, at second 0

A trace file has one such JSON object a line. Every server gets the same token ids, makes exactly `output_tokens`
for each, and is timed from the moment a request *should* have arrived: a server that is busy, and so does not
look at its door, is not excused. Prompts that are drawn begin with different tokens, so that no two share a
prefix and a prefix cache wins nothing by accident. Notebook 14.
"""

import json
import math
import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tqdm import tqdm

from aiinfra.errors import nearest

_KEYS = ("prompt", "prompt_tokens", "output_tokens", "arrival_seconds")
_LATEST = 86_400                                          # seconds: a trace is at most a day


@dataclass(frozen=True)
class TraceRequest:
    """A prompt's token ids, how many tokens must be made, and when it arrives (seconds from the start)."""

    prompt: list[int]
    output_tokens: int
    arrival_seconds: float = 0.0


class Token(NamedTuple):
    """A token that a server made: for which request of the trace, which id, and at which `time.perf_counter()`."""

    request: int
    token_id: int
    clock: float


class Server(Protocol):
    """What can be measured: ours, or a peer."""

    name: str

    @property
    def unfinished(self) -> int:
        """Requests that wait or run."""
        ...

    def add(self, request: int, prompt: list[int], output_tokens: int) -> None:
        """Queue a request, known by its number in the trace."""
        ...

    def step(self) -> list[Token]:
        """Work for a while, and say what was made."""
        ...


@dataclass(frozen=True)
class Answer:
    """One request as it was served; all times in seconds from the start of the trace."""

    arrival_seconds: float
    tokens: list[int] = field(default_factory=list)
    at_seconds: list[float] = field(default_factory=list)          # when each token was there

    @property
    def first_token_seconds(self) -> float:
        """Time to first token (TTFT): from the arrival, queue included."""
        return self.at_seconds[0] - self.arrival_seconds

    @property
    def gaps_seconds(self) -> list[float]:
        """Inter-token latencies (ITL): what a reader of the stream waits for each further token."""
        return [after - before for before, after in zip(self.at_seconds, self.at_seconds[1:])]

    @property
    def total_seconds(self) -> float:
        """End-to-end latency: from the arrival to the last token."""
        return self.at_seconds[-1] - self.arrival_seconds


def random_trace(requests: int, vocab_size: int, seed: int = 0, prompt_tokens: tuple[int, int] = (16, 256),
                 output_tokens: tuple[int, int] = (16, 128)) -> list[TraceRequest]:
    """`requests` prompts of random ids, lengths drawn evenly from the two ranges (ends included), all at second 0.
    No two begin with the same token. Raises ValueError for more requests than the vocabulary has tokens."""
    rng = random.Random(seed)
    return [TraceRequest(_draw(rng, first, rng.randint(*prompt_tokens), vocab_size), rng.randint(*output_tokens))
            for first in _firsts(rng, requests, vocab_size)]


def read_trace(path: Path, vocab_size: int, context: int, seed: int = 0) -> list[TraceRequest]:
    """The requests of a trace file, in its order; the prompts that it does not give begin with different tokens.
    Raises ValueError, before anything is drawn, naming a file that cannot be read or a line that is wrong: one with
    more tokens than `context`, too."""
    lines = [_checked(line, f"{path}, line {number}", vocab_size, context)
             for number, line in enumerate(_text(path).splitlines(), 1) if line.strip()]
    if not lines:
        raise ValueError(f"{path} has no requests: a trace is one JSON object a line.")
    rng = random.Random(seed)
    drawn = sum("prompt_tokens" in given for given in lines)
    firsts = iter(_firsts(rng, drawn, vocab_size) if drawn else [])
    return [TraceRequest(given["prompt"] if "prompt" in given else _draw(rng, next(firsts), given["prompt_tokens"], vocab_size),
                         given["output_tokens"], float(given.get("arrival_seconds", 0))) for given in lines]


def check_length(where: str, prompt_tokens: int, output_tokens: int, context: int) -> None:
    """Raise ValueError, beginning with `where`, for a request that is longer than the model's context."""
    if prompt_tokens + output_tokens > context:
        raise ValueError(f"{where} has {prompt_tokens:,} tokens in and {output_tokens:,} out; "
                         f"the model's context is {context:,}. Shorten it.")


def poisson_arrivals(trace: Sequence[TraceRequest], per_second: float, seed: int = 0) -> list[TraceRequest]:
    """The same requests, arriving one by one with exponential gaps: an open loop, which does not wait for answers."""
    if not per_second > 0:                               # NaN is not, either
        raise ValueError(f"{per_second} requests a second; it must be above 0.")
    rng, clock, arriving = random.Random(seed), 0.0, []
    for request in trace:
        clock += rng.expovariate(per_second)
        arriving.append(replace(request, arrival_seconds=clock))
    return arriving


def replay(server: Server, trace: Sequence[TraceRequest]) -> list[Answer]:
    """Serve the trace and return its answers in order. Raises RuntimeError if a request got more or fewer tokens
    than it asked for: the comparison would be of different work."""
    answers = [Answer(request.arrival_seconds) for request in trace]
    arriving = deque(sorted(range(len(trace)), key=lambda i: trace[i].arrival_seconds))
    start = time.perf_counter()
    with tqdm(total=sum(r.output_tokens for r in trace), desc=server.name, unit="tok", disable=None) as bar:
        while arriving or server.unfinished:
            now = time.perf_counter() - start
            while arriving and trace[arriving[0]].arrival_seconds <= now:
                i = arriving.popleft()
                server.add(i, trace[i].prompt, trace[i].output_tokens)
            if not server.unfinished:
                time.sleep(trace[arriving[0]].arrival_seconds - now)
                continue
            for made in server.step():
                answers[made.request].tokens.append(made.token_id)
                answers[made.request].at_seconds.append(made.clock - start)
                bar.update()
    for i, (request, answer) in enumerate(zip(trace, answers)):
        if len(answer.tokens) != request.output_tokens:
            raise RuntimeError(f"{server.name} made {len(answer.tokens)} tokens for request {i}, which asked for {request.output_tokens}.")
    return answers


def duration(answers: Sequence[Answer]) -> float:
    """Seconds from the start of the trace to its last token."""
    return max(answer.at_seconds[-1] for answer in answers)


def _draw(rng: random.Random, first: int, length: int, vocab_size: int) -> list[int]:
    return [first, *(rng.randrange(vocab_size) for _ in range(length - 1))]


def _firsts(rng: random.Random, requests: int, vocab_size: int) -> list[int]:
    if not 1 <= requests <= vocab_size:
        raise ValueError(f"{requests} requests; it must be 1 to {vocab_size:,}, so that each can begin with a token of its own.")
    return rng.sample(range(vocab_size), requests)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"the trace {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"the trace {path} is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02X}.") from error


def _checked(line: str, where: str, vocab_size: int, context: int) -> dict[str, Any]:
    """The object of one line of a trace file. `where` begins its error messages."""
    try:
        given = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {error}.") from error
    if not isinstance(given, dict):
        raise ValueError(f"{where} is not an object. Write {{\"prompt_tokens\": 57, \"output_tokens\": 80}}.")
    for key in given:
        if key not in _KEYS:
            raise ValueError(f"{where} has the unknown key {key!r}.{nearest(key, _KEYS)} Known: {', '.join(_KEYS)}.")
    if ("prompt" in given) == ("prompt_tokens" in given) or "output_tokens" not in given:
        raise ValueError(f"{where} needs output_tokens, and either prompt (token ids) or prompt_tokens (how many).")
    for key in ("prompt_tokens", "output_tokens"):
        if key in given and not _is_whole(given[key], 1, math.inf):
            raise ValueError(f"{where}: {key} is {given[key]!r}; it must be an integer of at least 1.")
    arrival, prompt = given.get("arrival_seconds", 0), given.get("prompt", [0])
    if type(arrival) not in (int, float) or not 0 <= arrival <= _LATEST:                 # false for NaN, too
        raise ValueError(f"{where}: arrival_seconds is {arrival!r}; it must be a number from 0 to {_LATEST:,}.")
    if not (isinstance(prompt, list) and prompt and all(_is_whole(i, 0, vocab_size - 1) for i in prompt)):
        raise ValueError(f"{where}: prompt must be a list of token ids, at least one, each from 0 to {vocab_size - 1:,}.")
    check_length(where, given.get("prompt_tokens", len(prompt)), given["output_tokens"], context)
    return given


def _is_whole(value: object, least: float, most: float) -> bool:
    return type(value) is int and least <= value <= most                                 # JSON's true is no number
