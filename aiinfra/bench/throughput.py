"""`python -m aiinfra bench throughput | latency`: many requests at once, ours against others.

    throughput   all of a trace at second 0: useful tokens a second, against transformers' padded batches, llama.cpp
    latency      the trace arrives by and by: what a user waits for the first token, the next, and the last;
                 then what those who are being served notice of a long prompt (`bench_steps.py`)

Every server gets the same token ids, the same threads and must make the same number of tokens (`trace.py`). Its
padding, and what a finished row still makes in its batch, is work but not useful: only the tokens asked for count.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiinfra.bench.decode import Row
from aiinfra.bench.steps import EngineServer, bench_long_prompt
from aiinfra.engine.engine import Engine
from aiinfra.bench.peers import LlamaCpp, StaticBatches, llama_cpp_module, transformers_model
from aiinfra.bench.load import (
    Answer, Server, TraceRequest, check_length, duration, poisson_arrivals, random_trace, read_trace, replay)
from aiinfra.checkpoint import load
from aiinfra.model import Transformer
from aiinfra.checkpoint.hub import resolve
from aiinfra.perf import percentile

BATCH_SIZES = (16, 32)               # of transformers' static batches: the better one counts
SEQUENCES = 32                       # of llama.cpp's context


def bench_throughput(model_name: str, trace: Path | None = None, requests: int = 64, seed: int = 0, turns: int = 1,
                     **engine_options: Any) -> Iterator[Row]:
    """Rows C3 and C4: useful tokens a second over a trace, all there at second 0, against the best of transformers'
    static batches and of llama.cpp's two kinds of cache; and the share of our time that was not the model's. Nobody
    waits for a next token here, so prompts are cut by the step's budget alone (chunk_tokens in `engine_options`)."""
    path = resolve(model_name)
    model, _ = load(path)
    engine_options = {"chunk_tokens": model.config.max_position_embeddings} | engine_options
    todo = [replace(request, arrival_seconds=0.0) for request in _trace(model, trace, requests, seed)]
    rivals = {"C3": _transformers(path, model, BATCH_SIZES), "C4": _llama_cpp(path, model, todo, (False, True))}
    servers = [lambda: EngineServer(Engine(model, **engine_options)), *rivals["C3"], *rivals["C4"]]
    runs = {make: [] for make in servers}
    for make in servers:
        replay(make(), [replace(r, output_tokens=min(2, r.output_tokens)) for r in todo[:2]])        # warm-up
    for _ in range(turns):
        for make in servers:                                                            # a fresh cache each time
            runs[make].append((server := make(), replay(server, todo)))
    wanted = sum(r.output_tokens for r in todo)
    rates = {make: percentile([wanted / duration(answers) for _, answers in done], 50) for make, done in runs.items()}
    ours, answers = runs[servers[0]][-1]
    work = f"{len(todo)} requests, {sum(len(r.prompt) for r in todo):,} tokens in, {wanted:,} out"
    for row, makers in rivals.items():
        if row == "C3" or makers:
            best = max(makers, key=rates.get, default=None)
            peer = (rates[best], runs[best][-1][0].name) if best else ()
            same = f"; {_equal(answers, runs[best][-1][1])} answers equal" if best and row == "C3" else ""
            yield Row(f"{row} mixed trace", rates[servers[0]], "tok/s", *peer, note=work + same)
    outside = sum(r.plan_seconds + r.sample_seconds for r in ours.records)
    yield Row("   planning and sampling", 100 * outside / duration(answers), "%", note="of the trace's time; `bench engine` has more")


def bench_latency(model_name: str, trace: Path | None = None, requests: int = 64, seed: int = 0, rate: float = 1.0,
                  **engine_options: Any) -> Iterator[Row]:
    """Percentiles of an open-loop run, `rate` requests a second on average (a trace file keeps its own times, if it
    has any), against each peer; and what chunks do for those who are being served while a long prompt arrives."""
    path = resolve(model_name)
    model, _ = load(path)
    todo = _trace(model, trace, requests, seed)
    if not any(r.arrival_seconds for r in todo):
        todo = poisson_arrivals(todo, rate, seed)
    ours = replay(EngineServer(Engine(model, **engine_options)), todo)
    rivals = [make() for make in (*_transformers(path, model, BATCH_SIZES[:1]), *_llama_cpp(path, model, todo, (False,)))]
    for server, answers in [(rival, replay(rival, todo)) for rival in rivals] or [(None, None)]:
        for name, seconds in WAITS.items():
            for q in (50, 90, 99):
                against = (percentile(seconds(answers), q), server.name) if server else ()
                yield Row(f"{name}, P{q}", percentile(seconds(ours), q), "s", *against)
    yield from bench_long_prompt(model, seed, **engine_options)


def _all_gaps(answers: list[Answer]) -> list[float]:
    return [gap for answer in answers for gap in answer.gaps_seconds]


WAITS: dict[str, Callable[[list[Answer]], list[float]]] = {
    "first token": lambda answers: [answer.first_token_seconds for answer in answers],
    "next token": _all_gaps,
    "whole answer": lambda answers: [answer.total_seconds for answer in answers]}


def _trace(model: Transformer, file: Path | None, requests: int, seed: int) -> list[TraceRequest]:
    """The trace to replay. Raises ValueError for a request that is longer than the model's context."""
    vocab, context = model.config.vocab_size, model.config.max_position_embeddings
    if file is not None:
        return read_trace(file, vocab, context, seed)
    todo = random_trace(requests, vocab, seed)
    for i, request in enumerate(todo):
        check_length(f"request {i} of the trace", len(request.prompt), request.output_tokens, context)
    return todo


def _transformers(path: Path, model: Transformer, batch_sizes: tuple[int, ...]) -> list[Callable[[], Server]]:
    peer = transformers_model(path, model.dtype, model.device)
    return [lambda size=size: StaticBatches(*peer, size) for size in batch_sizes] if peer else []


def _llama_cpp(path: Path, model: Transformer, todo: list[TraceRequest], shared_caches: tuple[bool, ...]) -> list[Callable[[], Server]]:
    api = llama_cpp_module()
    if api is None or path.suffix != ".gguf" or model.device.type != "cpu":
        return []
    longest = max(len(r.prompt) + r.output_tokens for r in todo)
    servers = [LlamaCpp(api, path, SEQUENCES, longest, shared) for shared in shared_caches]
    return [lambda server=server: server for server in servers]                          # it empties its own cache


def _equal(ours: list[Answer], theirs: list[Answer]) -> int:
    return sum(a.tokens == b.tokens for a, b in zip(ours, theirs))
