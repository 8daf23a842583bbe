"""Who asks for what, and when: the requests that a benchmark replays, on any server.

    {"prompt_tokens": 57, "output_tokens": 80, "arrival_seconds": 0.4}      57 random tokens
    {"prompt": [504, 2251, 314], "output_tokens": 16}                       these, at second 0

A trace file has one such JSON object a line. Every server gets the same token ids, makes exactly `output_tokens`
for each, and is timed from the moment a request *should* have arrived: a server that is busy, and so does not
look at its door, is not excused. Prompts that are drawn begin with different tokens, so that no two share a
prefix and a prefix cache wins nothing by accident. Notebook 14.
"""

import json
import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Protocol

from tqdm import tqdm

from aiinfra.errors import nearest

_KEYS = ("prompt", "prompt_tokens", "output_tokens", "arrival_seconds")


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
    if not 1 <= requests <= vocab_size:
        raise ValueError(f"{requests} requests; it must be 1 to {vocab_size:,}, so that each can begin with a token of its own.")
    rng = random.Random(seed)
    firsts = rng.sample(range(vocab_size), requests)
    return [TraceRequest(_draw(rng, first, rng.randint(*prompt_tokens), vocab_size), rng.randint(*output_tokens))
            for first in firsts]


def read_trace(path: Path, vocab_size: int, seed: int = 0) -> list[TraceRequest]:
    """The requests of a trace file, in its order. Raises ValueError naming the line that is wrong."""
    lines = [(number, line) for number, line in enumerate(path.read_text().splitlines(), 1) if line.strip()]
    if not lines:
        raise ValueError(f"{path} has no requests: a trace is one JSON object a line.")
    rng = random.Random(seed)
    firsts = iter(rng.sample(range(vocab_size), min(len(lines), vocab_size)))
    return [_request(line, f"{path}, line {number}", rng, next(firsts), vocab_size) for number, line in lines]


def poisson_arrivals(trace: Sequence[TraceRequest], per_second: float, seed: int = 0) -> list[TraceRequest]:
    """The same requests, arriving one by one with exponential gaps: an open loop, which does not wait for answers."""
    if per_second <= 0:
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


def _request(line: str, where: str, rng: random.Random, first: int, vocab_size: int) -> TraceRequest:
    """One line of a trace file. `where` begins its error messages."""
    try:
        given = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON: {error}.") from error
    if not isinstance(given, dict):
        raise ValueError(f"{where} is not an object. Write {{\"prompt_tokens\": 57, \"output_tokens\": 80}}.")
    for key in given:
        if key not in _KEYS:
            raise ValueError(f"{where} has the unknown key {key!r}.{nearest(key, _KEYS)} Known: {', '.join(_KEYS)}.")
    if ("prompt" in given) == ("prompt_tokens" in given):
        raise ValueError(f"{where}: give either prompt (token ids) or prompt_tokens (how many).")
    for key in ("prompt_tokens", "output_tokens"):
        if key in given and not (isinstance(given[key], int) and given[key] >= 1):
            raise ValueError(f"{where}: {key} is {given[key]!r}; it must be an integer of at least 1.")
    arrival = given.get("arrival_seconds", 0.0)
    if "output_tokens" not in given or not isinstance(arrival, int | float) or arrival < 0:
        raise ValueError(f"{where} needs output_tokens, and an arrival_seconds (if any) of at least 0.")
    prompt = given["prompt"] if "prompt" in given else _draw(rng, first, given["prompt_tokens"], vocab_size)
    if not (isinstance(prompt, list) and prompt and all(isinstance(i, int) and 0 <= i < vocab_size for i in prompt)):
        raise ValueError(f"{where}: prompt must be a list of token ids, at least one, each from 0 to {vocab_size - 1:,}.")
    return TraceRequest(prompt, given["output_tokens"], float(arrival))
