"""MANY REQUESTS, ONE MODEL: from a prompt to a stream of tokens.

Reading order: sampling_params, sampler, generate (naive and cached); request, blocks, scheduler, runner, record, engine; llm;
then what makes it faster: speculative, graphs; and what measures it: trace, peers, bench.
Importing this package runs nothing: the scheduler, which needs no torch, must not have to wait for it.
"""

from typing import Any

_HOMES = {"LLM": "llm", "RequestOutput": "llm", "CompletionOutput": "llm", "SamplingParams": "sampling_params",
          "Engine": "engine", "PromptLookup": "speculative", "DraftModel": "speculative"}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib
        return getattr(importlib.import_module(f"aiinfra.engine.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'aiinfra.engine' has no attribute {name!r}")
