"""Requests put to a server, and when each token came back: one replay for every server.

    trace ──add, when it is time──► Server.step() ──tokens, each with its time──► Served, one a request

Every server gets the same token ids, makes exactly `output_tokens` for each request, and is timed from the
moment a request *should* have arrived: a server that is busy, and so does not look at its door, is not
excused. Ours is one adapter of three methods, a peer (`peers/`) another. Notebook 14.
"""

import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from tqdm import tqdm

from aiinfra.bench.trace import TraceRequest
from aiinfra.engine.engine import Engine
from aiinfra.engine.record import StepRecord
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.model import Transformer

WARM_STEPS = 4                         # of a server whose requests decode, before its steps are timed


class Token(NamedTuple):
    """A token that a server made: for which request of the trace, which id, and at which
    `time.perf_counter()`."""

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
class Served:
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


class EngineServer:
    """Our engine, greedy, as a server that can be measured. Its records are kept."""

    name = "aiinfra"

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.records: list[StepRecord] = []

    @property
    def unfinished(self) -> int:
        """Requests that wait or run."""
        return self.engine.unfinished

    def add(self, request: int, prompt: list[int], output_tokens: int) -> None:
        """Queue a request that will not stop early."""
        params = SamplingParams(temperature=0, max_tokens=output_tokens, ignore_eos=True)
        self.engine.add(str(request), prompt, params)

    def step(self) -> list[Token]:
        """One engine step."""
        record = self.engine.step()
        now = time.perf_counter()
        self.records.append(record)
        return [Token(int(made.request_id), made.token_id, now) for made in record.made]


def replay(server: Server, trace: Sequence[TraceRequest]) -> list[Served]:
    """Serve the trace and return what was served, in its order. Raises RuntimeError if a request got more or
    fewer tokens than it asked for: the comparison would be of different work."""
    served = [Served(request.arrival_seconds) for request in trace]
    arriving = deque(sorted(range(len(trace)), key=lambda i: trace[i].arrival_seconds))
    wanted = sum(request.output_tokens for request in trace)
    start = time.perf_counter()
    with tqdm(total=wanted, desc=server.name, unit="tok", disable=None) as bar:
        while arriving or server.unfinished:
            now = time.perf_counter() - start
            while arriving and trace[arriving[0]].arrival_seconds <= now:
                i = arriving.popleft()
                server.add(i, trace[i].prompt, trace[i].output_tokens)
            if not server.unfinished:
                time.sleep(trace[arriving[0]].arrival_seconds - now)
                continue
            for made in server.step():
                served[made.request].tokens.append(made.token_id)
                served[made.request].at_seconds.append(made.clock - start)
                bar.update()
    _check_same_work(server.name, trace, served)
    return served


def _check_same_work(name: str, trace: Sequence[TraceRequest], served: list[Served]) -> None:
    for i, (request, answer) in enumerate(zip(trace, served)):
        made, wanted = len(answer.tokens), request.output_tokens
        if made != wanted:
            raise RuntimeError(f"{name} made {made} tokens for request {i}, which asked for {wanted}.")


def duration(served: Sequence[Served]) -> float:
    """Seconds from the start of the trace to its last token."""
    return max(answer.at_seconds[-1] for answer in served)


def decoding(engine: Engine, requests: int, prompt_tokens: int, output_tokens: int,
             rng: random.Random) -> EngineServer:
    """A server whose requests, with random prompts, have been read and have decoded for a few steps. Each may
    make `output_tokens`; with guesses, as many times more as a step may make. Raises ValueError if they do
    not all run at once."""
    server, scheduler = EngineServer(engine), engine.scheduler
    guesses = engine.proposer.k if engine.proposer else 0
    for i in range(requests):
        server.add(i, random_ids(rng, engine.model, prompt_tokens), output_tokens * (1 + guesses))
    # Where they do not all have a place they never will all run, and nobody need wait for it.
    while engine.unfinished == requests <= scheduler.max_running and not _all_decode(engine):
        server.step()
    for _ in range(WARM_STEPS):
        server.step()
    if len(scheduler.running) < requests:
        raise too_few_places(engine, requests)
    return server


def _all_decode(engine: Engine) -> bool:
    scheduler = engine.scheduler
    return not scheduler.waiting and all(request.pending <= 1 for request in scheduler.running)


def too_few_places(engine: Engine, requests: int) -> ValueError:
    """The error that so many requests do not run at once with this engine's settings."""
    scheduler = engine.scheduler
    return ValueError(
        f"{requests} requests do not run side by side with mode={scheduler.mode}, "
        f"max_running={scheduler.max_running} and {engine.pool.total:,} blocks of cache. "
        f"Use mode=continuous, max_running={requests} or more, and more cache_bytes if it is the cache "
        "that is full.")


def random_ids(rng: random.Random, model: Transformer, length: int) -> list[int]:
    """A prompt of random token ids."""
    return [rng.randrange(model.config.vocab_size) for _ in range(length)]
