"""`python -m aiinfra bench throughput`: many requests, all there at second 0, ours against others.

    ours            │ one engine, continuous batches                          │ useful tokens a second
    transformers    │ static batches of 16, or of 32: the better one counts   │ of the same trace
    llama.cpp       │ one cache for all, or one each: the better one counts   │

Every server gets the same token ids, the same threads and must make the same number of tokens (`load.py`).
Its padding, and what a finished row still makes in its batch, is work but not useful: only the tokens asked
for count.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from aiinfra.bench.load import EngineServer, Served, Server, duration, replay
from aiinfra.bench.peers.llama_cpp import llama_servers
from aiinfra.bench.peers.transformers import static_servers
from aiinfra.bench.row import Row
from aiinfra.bench.trace import TraceRequest, trace_for
from aiinfra.checkpoint import load
from aiinfra.checkpoint.hub import resolve
from aiinfra.engine.engine import Engine
from aiinfra.model import Transformer
from aiinfra.perf import percentile

BATCH_SIZES = (16, 32)               # of transformers' static batches: the better one counts


@dataclass
class Contestant:
    """A way to serve the trace: what makes a fresh server, and what came of each turn."""

    make: Callable[[], Server]
    rates: list[float] = field(default_factory=list)             # useful tokens a second
    server: Server | None = None                                 # of the last turn
    served: list[Served] = field(default_factory=list)

    def serve(self, trace: Sequence[TraceRequest]) -> None:
        """One turn, with a fresh cache."""
        self.server = None                   # its cache goes first: a new one takes most of what is free
        self.server = self.make()
        self.served = replay(self.server, trace)
        self.rates.append(_wanted(trace) / duration(self.served))

    @property
    def rate(self) -> float:
        """The median of the turns."""
        return percentile(self.rates, 50)


def bench_throughput(model_name: str, trace: Path | None = None, requests: int = 64, seed: int = 0,
                     turns: int = 1, **engine_options: Any) -> Iterator[Row]:
    """Useful tokens a second over a trace, all there at second 0, against the best of transformers' static
    batches (C3) and of llama.cpp's two kinds of cache (C4); and the share of our time that was not the
    model's. Nobody waits for a next token here, so prompts are cut by the step's budget alone (chunk_tokens
    in `engine_options`)."""
    path = resolve(model_name)
    model, _ = load(path)
    todo = trace_for(model.config.vocab_size, model.config.max_position_embeddings, trace, requests, seed)
    todo = [replace(request, arrival_seconds=0.0) for request in todo]
    ours = Contestant(partial(_our_server, model, engine_options))
    static = [Contestant(make) for make in static_servers(path, model.dtype, model.device, BATCH_SIZES)]
    llama = [Contestant(make) for make in llama_servers(path, model.device, todo, (False, True))]
    _run([ours, *static, *llama], todo, turns)
    yield _static_row(ours, static, todo)
    if llama:
        yield _mixed_row(ours, max(llama, key=lambda one: one.rate), _work(todo), "C4")
    outside = sum(record.plan_seconds + record.sample_seconds for record in ours.server.records)
    share = 100 * outside / duration(ours.served)
    yield Row("   planning and sampling", share, "%", note="of the trace's time; `bench engine` has more")


def _our_server(model: Transformer, options: dict[str, Any]) -> EngineServer:
    uncut = {"chunk_tokens": model.config.max_position_embeddings}
    return EngineServer(Engine(model, **uncut | options))


def _run(contestants: list[Contestant], trace: list[TraceRequest], turns: int) -> None:
    short = [replace(request, output_tokens=min(2, request.output_tokens)) for request in trace[:2]]
    for one in contestants:
        replay(one.make(), short)                                # warm-up
    for _ in range(turns):
        for one in contestants:
            one.serve(trace)


def _static_row(ours: Contestant, static: list[Contestant], trace: list[TraceRequest]) -> Row:
    """Against the best of transformers' batches, with how many answers are the same token by token."""
    if not static:
        return _mixed_row(ours, None, _work(trace), "C3")
    best = max(static, key=lambda one: one.rate)
    equal = sum(mine.tokens == other.tokens for mine, other in zip(ours.served, best.served))
    return _mixed_row(ours, best, f"{_work(trace)}; {equal} answers equal", "C3")


def _mixed_row(ours: Contestant, best: Contestant | None, note: str, target: str) -> Row:
    row = Row("mixed trace", ours.rate, "tok/s", note=note, target=target)
    return replace(row, peer=best.rate, peer_name=best.server.name) if best else row


def _wanted(trace: Sequence[TraceRequest]) -> int:
    return sum(request.output_tokens for request in trace)


def _work(trace: Sequence[TraceRequest]) -> str:
    prompts = sum(len(request.prompt) for request in trace)
    return f"{len(trace)} requests, {prompts:,} tokens in, {_wanted(trace):,} out"
