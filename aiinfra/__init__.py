"""From y = ax + b to serving and training language models: the library under the workbook.

    errors, arguments, files, config, environment, device      the ground; device.py alone asks "CPU or GPU?"
    perf/         HOW FAST SHOULD IT BE?    cost of an op, hardware sheet, roofline, timing
    kernels/      ONE OP, WRITTEN TWICE     torch reference, then Triton; one file an op
    gpu/          WHAT WOULD A GPU DO?      compile, listing, dry run, traffic, occupancy, graph capture
    model/        WHAT IS COMPUTED          config, layers, attention, transformer, kv_cache, recommender
    compress/     THE SAME IN FEWER BYTES   packed, quantized
    checkpoint/   FROM FILES AND BACK       hub, huggingface, gguf, names, fill, save, tokenizer, load
    train/        HOW IT LEARNS             data, loop, optimizer, state, evaluate, run
    engine/       MANY REQUESTS, ONE MODEL  request, blocks, scheduler, runner, sampler, engine, llm
    parallel/     MANY RANKS, SAME MODEL    launch, mesh, data, tensor, pipeline, expert
    serve/        OVER THE NETWORK          protocol, app, engine_thread, metrics, ranks, pulse
    plan/         HOW MANY MACHINES?        the real scheduler, with a cost in place of a GPU
    bench/        OURS AGAINST OTHERS       load, decode, throughput, steps, gpu, kernels, peers
    lab/          AT THE BENCH              predict, check, hint, figures; for notebooks and puzzles only

Imports go one way: a package knows only those above it. Importing this one runs nothing: names are looked up
when they are asked for.
"""

import importlib
from typing import Any

_HOMES = {
    "LLM": "aiinfra.engine",
    "SamplingParams": "aiinfra.engine",
    "RequestOutput": "aiinfra.engine",
    "CompletionOutput": "aiinfra.engine",
    "load": "aiinfra.checkpoint",
    "save": "aiinfra.checkpoint",
    "Tokenizer": "aiinfra.checkpoint",
}
__all__ = list(_HOMES)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'aiinfra' has no attribute {name!r}")
