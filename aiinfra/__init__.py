"""From y = ax + b to serving and training language models: the library under the workbook.

    device.py    the only file that asks "CPU or GPU?"
    perf/        HOW FAST SHOULD IT BE?     hardware sheet, cost of an op, roofline, timing
    kernels/     ONE OP, WRITTEN TWICE      torch reference, then Triton
    model/       WHAT IS COMPUTED           config, layers, attention, transformer, weights, tokenizer
    train/       HOW IT LEARNS              a small recommender on HSTU attention
    engine/      MANY REQUESTS, ONE MODEL   request, blocks, scheduler, runner, sampler, LLM
    lab/         AT THE BENCH               predict, check, hint, plots; only notebooks import it

Imports go one way, downwards in this list; `aiinfra.errors` is under all. Importing this package runs nothing:
names are looked up when they are asked for.
"""

from typing import Any

_HOMES = {"LLM": "aiinfra.engine", "SamplingParams": "aiinfra.engine", "RequestOutput": "aiinfra.engine",
          "CompletionOutput": "aiinfra.engine", "load": "aiinfra.checkpoint", "Tokenizer": "aiinfra.checkpoint"}
__all__ = list(_HOMES)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'aiinfra' has no attribute {name!r}")
