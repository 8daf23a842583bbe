"""`python -m aiinfra bench overhead`: what HTTP, events and a second process take from the engine.

    LLM.generate(all)     │ tokens a second │     the same requests, all at once, over HTTP
    LLM.stream(one)       │  first token    │     the same request, alone, over HTTP

Both are asked in turn, so that a busy minute is everybody's; each turn has prompts of its own, so that no
prefix cache helps. The server is a process of its own with a copy of the model: only one of the two works at
a time. On a CPU both leave a core to whoever asks: his own work for a token is no part of what a server
costs, and beside as many threads as cores each of them would wait for it. Notebook 15.
"""

import asyncio
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from aiinfra.bench.http import Endpoint, HttpServed
from aiinfra.bench.load import duration, random_ids
from aiinfra.bench.open_loop import open_loop
from aiinfra.bench.own_server import own_server
from aiinfra.bench.row import Row
from aiinfra.bench.trace import TraceRequest, trace_for
from aiinfra.engine.llm import LLM
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.errors import plural

_LONE_TIMES = 20
_LONE = (32, 4)                       # tokens in and out of the request that is alone


def bench_overhead(model_name: str, trace: Path | None = None, requests: int = 64, seed: int = 0,
                   turns: int = 3, **engine_options: Any) -> Iterator[Row]:
    """Two rows: saturated throughput, and the first token of a request that is alone; the engine in this
    process is the peer. Raises RuntimeError if the server refuses or fails a request."""
    threads = max(1, torch.get_num_threads() - 1)
    torch.set_num_threads(threads)
    llm = LLM(model_name, **engine_options)
    config = llm.model.config
    settings = [word for name, value in engine_options.items() for word in ("--set", f"{name}={value}")]
    arguments = [*settings, "--max-queued-requests", "100000"]
    with own_server(model_name, arguments, threads=threads) as url:
        endpoint = Endpoint(url)
        yield _lone_row(llm, endpoint, random.Random(seed))
        both = []
        for turn in tqdm(range(turns), desc="turns", disable=None):
            todo = trace_for(config.vocab_size, llm.max_model_len, trace, requests, seed + turn)
            both.append((_over_http(endpoint, todo), _in_process(llm, todo)))
        yield _saturated_row(both, len(todo))


def _saturated_row(both: list[tuple[float, float]], requests: int) -> Row:
    ours, theirs = (statistics.median(rates) for rates in zip(*both))
    ratio = statistics.median(ours / theirs for ours, theirs in both)
    threads = plural(torch.get_num_threads(), "thread")
    note = f"{requests} requests at once, {threads}; median of {len(both)} turns' ratios: {ratio:.3f}"
    return Row("saturated server", ours, "tok/s", peer=theirs, peer_name="LLM.generate", note=note)


def _lone_row(llm: LLM, endpoint: Endpoint, rng: random.Random) -> Row:
    asked, made = _LONE
    ours, theirs = [], []
    for _ in range(1 + _LONE_TIMES):
        request = TraceRequest(random_ids(rng, llm.model, asked), made)
        [answer] = _served(endpoint, [request])
        ours.append(answer.first_token_seconds)
        theirs.append(_first_of_stream(llm, request))
    more = statistics.median(a - b for a, b in zip(ours[1:], theirs[1:]))          # the first is slow
    ours, theirs = statistics.median(ours[1:]), statistics.median(theirs[1:])
    note = f"{1000 * more:+.1f} ms, the median of {_LONE_TIMES} pairs"
    return Row("first token, one request", ours, "s", peer=theirs, peer_name="LLM.stream", note=note)


def _over_http(endpoint: Endpoint, todo: Sequence[TraceRequest]) -> float:
    """Tokens a second."""
    answers = _served(endpoint, todo)
    return sum(len(answer.at_seconds) for answer in answers) / duration(answers)


def _served(endpoint: Endpoint, todo: Sequence[TraceRequest]) -> list[HttpServed]:
    heard: dict[int, HttpServed] = {}

    async def work() -> None:
        async with endpoint:
            await open_loop(endpoint, todo, heard.__setitem__)
    asyncio.run(work())
    for answer, request in zip(map(heard.get, range(len(todo))), todo):
        if not answer.answered or len(answer.at_seconds) != request.output_tokens:
            why = answer.failure or f"{len(answer.at_seconds)} of {request.output_tokens} tokens"
            raise RuntimeError(f"the server did not serve a request to its end: {why}.")
    return [heard[i] for i in range(len(todo))]


def _in_process(llm: LLM, todo: Sequence[TraceRequest]) -> float:
    """Tokens a second."""
    params = [_params(request) for request in todo]
    start = time.perf_counter()
    answers = llm.generate([request.prompt for request in todo], params, use_tqdm=False)
    seconds = time.perf_counter() - start
    return sum(len(answer.outputs[0].token_ids) for answer in answers) / seconds


def _first_of_stream(llm: LLM, request: TraceRequest) -> float:
    """Seconds to its first token; the rest is made, too, so that nothing is left."""
    start = time.perf_counter()
    stream = llm.stream(request.prompt, _params(request))
    next(stream)
    seconds = time.perf_counter() - start
    for _ in stream:
        pass
    return seconds


def _params(request: TraceRequest) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=request.output_tokens, ignore_eos=True)
