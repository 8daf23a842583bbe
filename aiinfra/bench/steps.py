"""`python -m aiinfra bench engine`, and the long prompt of `bench latency`: what a step of our engine costs.

    batch 32   │ plan │ inputs │ model ······································ │ sampling │     one decode step
    waiting    │ d d d + chunk │ d d d + chunk │ d d d + chunk │   or   │ d d d + the whole prompt ········ │

Python's share must stay small against the model's, and one user's prompt must not stop the others' streams.
Both are ratios within one run of one engine. Notebooks 12 and 14.
"""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tqdm import tqdm

from aiinfra.bench.decode import Row
from aiinfra.engine.engine import Engine, StepRecord
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.bench.load import Token
from aiinfra.checkpoint import load
from aiinfra.model import Transformer
from aiinfra.perf import percentile

BATCHES, STEPS, CONTEXT = (1, 8, 32), 32, 128          # requests; steps that are timed; tokens behind each request
LONG_PROMPT, BYSTANDERS = 2_000, 8
_BRIEF, _WARM = 32, 4                                  # tokens of a bystander's prompt; steps before one is timed


class EngineServer:
    """Our engine, greedy, as a server that can be measured."""

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
        self.engine.add(str(request), prompt, SamplingParams(temperature=0, max_tokens=output_tokens, ignore_eos=True))

    def step(self) -> list[Token]:
        """One engine step."""
        self.records.append(self.engine.step())
        now = time.perf_counter()
        return [Token(int(made.request_id), made.token_id, now) for made in self.records[-1].made]


def decoding(engine: Engine, requests: int, prompt_tokens: int, output_tokens: int, rng: random.Random) -> EngineServer:
    """A server whose requests, with random prompts, have been read and have decoded for a few steps. Each may make
    `output_tokens`; with guesses, as many times more as a step may make. Raises ValueError if they do not all run at once."""
    server, scheduler = EngineServer(engine), engine.scheduler
    most = output_tokens * (1 + (engine.proposer.k if engine.proposer else 0))
    for i in range(requests):
        server.add(i, _ids(rng, engine.model, prompt_tokens), most)
    while engine.unfinished == requests <= scheduler.max_running:          # else they never will, and nobody need wait
        if not scheduler.waiting and all(r.pending <= 1 for r in scheduler.running):
            break
        server.step()
    for _ in range(_WARM):
        server.step()
    if len(scheduler.running) < requests:
        raise _too_few(engine, requests)
    return server


def _too_few(engine: Engine, requests: int) -> ValueError:
    have = f"mode={engine.scheduler.mode}, max_running={engine.scheduler.max_running} and {engine.pool.total:,} blocks of cache"
    return ValueError(f"{requests} requests do not run side by side with {have}. Use mode=continuous, max_running={requests} or more, "
                      "and more cache_bytes if it is the cache that is full.")


def bench_long_prompt(model: Transformer, seed: int = 0, **engine_options: Any) -> Iterator[Row]:
    """P99 of the gaps between tokens of 8 requests, from the moment a 2,000-token prompt is added to its first
    token; and how long that took. The peer is the same engine when it reads prompts whole. With settings that do
    not let 9 requests run at once there is one row without a figure, which says so."""
    whole = {**engine_options, "chunked": False, "token_budget": max(LONG_PROMPT + BYSTANDERS, model.config.max_position_embeddings)}
    try:
        chunked, unchunked = (_gaps_during_a_long_prompt(Engine(model, **options), seed) for options in (engine_options, whole))
    except ValueError as error:                          # what was measured before is no worse for it
        yield Row("next token during a prompt, P99", None, "s", note=f"not measured: {error}")
        return
    note = f"{BYSTANDERS} requests, while {LONG_PROMPT:,} prompt tokens are read in {len(chunked)} steps, or in {len(unchunked)}"
    yield Row("next token during a prompt, P99", percentile(chunked, 99), "s", percentile(unchunked, 99), "prompt read whole", note)
    yield Row("   that prompt's own first token", sum(chunked), "s", sum(unchunked), "prompt read whole")


def _gaps_during_a_long_prompt(engine: Engine, seed: int) -> list[float]:
    """Seconds of each step, which is what every bystander waits for its next token. One a step: that all eight
    wait equally long does not make the sample larger. Raises ValueError if the prompt is not read beside them."""
    rng = random.Random(seed)
    server = decoding(engine, BYSTANDERS, _BRIEF, _steps_to_read(engine), rng)
    server.add(BYSTANDERS, _ids(rng, engine.model, LONG_PROMPT), 1)
    gaps, before, served = [], time.perf_counter(), set()
    while BYSTANDERS not in served:
        made = server.step()
        served = {token.request for token in made}
        if not served.issuperset(range(BYSTANDERS)):
            raise _too_few(engine, BYSTANDERS + 1)
        gaps.append(made[0].clock - before)
        before = made[0].clock
    return gaps


def _steps_to_read(engine: Engine) -> int:
    """At most so many steps pass until the bystanders and then the long prompt are read, and a few."""
    a_step = max(1, min(engine.scheduler.chunk_tokens, engine.scheduler.token_budget - BYSTANDERS))
    return 2 * _WARM + 2 + (BYSTANDERS * _BRIEF + LONG_PROMPT) // a_step


def bench_engine(model_name: str, seed: int = 0, **engine_options: Any) -> Iterator[Row]:
    """Where a decode step's time goes at 1, 8 and 32 requests; C6, the share outside the model, at 32.

    The model's time is what its own calls take: the tensors that are made for them count as "inputs". On a GPU,
    which works while Python goes on, inputs and model cannot be told apart this way and are one.
    """
    model, _ = load(model_name)
    for batch in tqdm(BATCHES, desc="batch", disable=None):
        parts = _split_steps(Engine(model, **{"max_running": max(BATCHES), "overlap": False, **engine_options}), batch, seed)
        total = sum(parts.values())
        for name, seconds in parts.items():
            yield Row(f"batch {batch}: {name}", 1e3 * seconds, "ms", note=f"{100 * seconds / total:.1f} %")
        yield Row("C6 outside the model, batch 32" if batch == 32 else f"   outside the model, batch {batch}",
                  100 * (1 - parts["model"] / total), "%", note=f"of {1e3 * total:.1f} ms a step, median of {STEPS}")


def _split_steps(engine: Engine, batch: int, seed: int) -> dict[str, float]:
    """Median seconds of plan, inputs, model and sampling over decode steps of `batch` requests."""
    server = decoding(engine, batch, CONTEXT, 2 * STEPS + CONTEXT, random.Random(seed))
    parts: dict[str, list[float]] = {"plan": [], "inputs": [], "model": [], "sampling": []}
    with _clock(engine.model) as inside:
        for _ in range(STEPS):
            inside.clear()
            server.step()
            record = server.records[-1]
            seconds = sum(inside) if engine.model.device.type == "cpu" else record.model_seconds
            for part, spent in zip(parts.values(), (record.plan_seconds, record.model_seconds - seconds, seconds, record.sample_seconds)):
                part.append(spent)
    return {name: percentile(seconds, 50) for name, seconds in parts.items()}


@contextmanager
def _clock(model: Transformer) -> Iterator[list[float]]:
    """While it is open, the seconds of each call of `model.hidden` and `model.lm_head` are appended to the list."""
    seconds: list[float] = []
    started: list[float] = []

    def timed(*args: Any, **kwargs: Any) -> torch.Tensor:
        start = time.perf_counter()
        out = type(model).hidden(model, *args, **kwargs)
        seconds.append(time.perf_counter() - start)
        return out
    before = model.lm_head.register_forward_pre_hook(lambda *_: started.append(time.perf_counter()))
    after = model.lm_head.register_forward_hook(lambda *_: seconds.append(time.perf_counter() - started.pop()))
    model.hidden = timed
    try:
        yield seconds
    finally:
        del model.hidden
        before.remove(), after.remove()


def _ids(rng: random.Random, model: Transformer, length: int) -> list[int]:
    return [rng.randrange(model.config.vocab_size) for _ in range(length)]
