"""`python -m aiinfra bench latency`: requests that arrive by and by, and what their users wait for.

    first token, next token, whole answer     percentiles, against transformers' batches and llama.cpp
    next token during a prompt                what those who are served notice of somebody's long prompt:

    │ d d d + chunk │ d d d + chunk │ d d d + chunk │   or   │ d d d + the whole prompt ········ │

One user's prompt must not stop the others' streams. Notebooks 12 and 13.
"""

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiinfra.bench.load import (
    WARM_STEPS,
    EngineServer,
    Server,
    decoding,
    random_ids,
    replay,
    too_few_places,
)
from aiinfra.bench.peers.llama_cpp import llama_servers
from aiinfra.bench.peers.transformers import static_servers
from aiinfra.bench.row import Row
from aiinfra.bench.trace import TraceRequest, poisson_arrivals, trace_for
from aiinfra.bench.waits import wait_rows
from aiinfra.checkpoint import load
from aiinfra.checkpoint.hub import resolve
from aiinfra.engine.engine import Engine
from aiinfra.model import Transformer
from aiinfra.perf import percentile

BATCH_SIZES = (16,)                                    # of transformers' static batches
LONG_PROMPT, BYSTANDERS = 2_000, 8
_BRIEF = 32                                            # tokens of a bystander's prompt


def bench_latency(model_name: str, trace: Path | None = None, requests: int = 64, seed: int = 0,
                  rate: float = 1.0, **engine_options: Any) -> Iterator[Row]:
    """Percentiles of an open-loop run, `rate` requests a second on average (a trace file keeps its own times,
    if it has any), against each peer; and what chunks do for those who are being served while a long prompt
    arrives."""
    path = resolve(model_name)
    model, _ = load(path)
    todo = trace_for(model.config.vocab_size, model.config.max_position_embeddings, trace, requests, seed)
    if not any(request.arrival_seconds for request in todo):
        todo = poisson_arrivals(todo, rate, seed)
    ours = replay(EngineServer(Engine(model, **engine_options)), todo)
    rivals = _rivals(path, model, todo)
    if not rivals:
        yield from wait_rows(ours)
    for rival in rivals:
        yield from wait_rows(ours, rival.name, replay(rival, todo))
    yield from bench_long_prompt(model, seed, **engine_options)


def _rivals(path: Path, model: Transformer, todo: list[TraceRequest]) -> list[Server]:
    makers = [
        *static_servers(path, model.dtype, model.device, BATCH_SIZES),
        *llama_servers(path, model.device, todo, (False,)),
    ]
    return [make() for make in makers]


def bench_long_prompt(model: Transformer, seed: int = 0, **engine_options: Any) -> Iterator[Row]:
    """P99 of the gaps between tokens of 8 requests, from the moment a 2,000-token prompt is added to its
    first token; and how long that took. The peer is the same engine when it reads prompts whole. With
    settings that do not let 9 requests run at once there is one row without a figure, which says so."""
    longest = max(LONG_PROMPT + BYSTANDERS, model.config.max_position_embeddings)
    whole = {**engine_options, "chunked": False, "token_budget": longest}
    name, against = "next token during a prompt, P99", "prompt read whole"
    try:
        chunked = _gaps_during_a_long_prompt(Engine(model, **engine_options), seed)
        unchunked = _gaps_during_a_long_prompt(Engine(model, **whole), seed)
    except ValueError as error:                          # what was measured before is no worse for it
        yield Row(name, None, "s", note=f"not measured: {error}")
        return
    note = (f"{BYSTANDERS} requests, while {LONG_PROMPT:,} prompt tokens are read in {len(chunked)} steps, "
            f"or in {len(unchunked)}")
    peer = {"peer": percentile(unchunked, 99), "peer_name": against}
    yield Row(name, percentile(chunked, 99), "s", **peer, note=note)
    peer = {"peer": sum(unchunked), "peer_name": against}
    yield Row("   that prompt's own first token", sum(chunked), "s", **peer)


def _gaps_during_a_long_prompt(engine: Engine, seed: int) -> list[float]:
    """Seconds of each step, which is what every bystander waits for its next token. One a step: that all
    eight wait equally long does not make the sample larger. Raises ValueError if the prompt is not read
    beside them."""
    rng = random.Random(seed)
    server = decoding(engine, BYSTANDERS, _BRIEF, _steps_to_read(engine), rng)
    server.add(BYSTANDERS, random_ids(rng, engine.model, LONG_PROMPT), 1)
    gaps: list[float] = []
    served: set[int] = set()
    before = time.perf_counter()
    while BYSTANDERS not in served:
        made = server.step()
        served = {token.request for token in made}
        if not served.issuperset(range(BYSTANDERS)):
            raise too_few_places(engine, BYSTANDERS + 1)
        gaps.append(made[0].clock - before)
        before = made[0].clock
    return gaps


def _steps_to_read(engine: Engine) -> int:
    """At most so many steps pass until the bystanders and then the long prompt are read, and a few."""
    scheduler = engine.scheduler
    beside_decodes = min(scheduler.chunk_tokens, scheduler.token_budget - BYSTANDERS)
    prompt_tokens = BYSTANDERS * _BRIEF + LONG_PROMPT
    return 2 * WARM_STEPS + 2 + prompt_tokens // max(1, beside_decodes)
