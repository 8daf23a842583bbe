"""MANY REQUESTS, ONE MODEL: from a prompt to a stream of tokens.

The life of a request:

1. `LLM.generate` (llm.py) has text turned into token ids (text_engine.py) and given to the engine with
   `SamplingParams` (sampling_params.py), whose values were checked when they were written down.
2. `Engine.add` (engine.py, set up by options.py) refuses what is longer than the context, and notes what was
   asked (answers.py); the scheduler refuses what the cache could never hold, and queues a `Request`
   (request.py), which is integers.
3. `Engine.step`, or ahead.py in its place, has the answers ask the scheduler (scheduler.py) for a plan: who
   runs how many tokens, on which blocks of the cache (blocks.py); with a proposer (speculative.py), guesses
   are put behind the decodes.
4. The runner (runner.py) first copies each shared block that is about to be written. Then it makes one flat
   batch of the plan and runs the model on it, or replays a recorded step (graphs.py); out come logits for the
   last row of each request that is up to date, and for the rows before it if tokens were guessed.
5. The sampler (sampler.py, likelihood.py) chooses a token from each of these rows; after a prompt, one for
   each of the n answers. Of the rows with guesses, those up to the first wrong guess count.
6. The answers (answers.py) take their tokens, and have the scheduler commit the step: full blocks can now be
   found by others. Then answers branch off, or end: what was in their blocks alone can be evicted from now
   on.
7. A `StepRecord` (record.py) says what was made and what it cost. Where a GPU works while Python goes on, the
   next step may have been asked for by then (ahead.py).
8. Back in text_engine.py, a stream decoder (checkpoint/tokenizer.py) turns ids into text, which is cut at a
   stop string (output.py), until every answer of the `RequestOutput` has a finish_reason.

Beside this path there are three loops without an engine, whose tokens everything here must equal: two in
generate.py, and one in speculative.py that takes guesses. Importing this package runs nothing: the scheduler,
which needs no torch, must not have to wait for it.
"""

import importlib
from typing import Any

_HOMES = {
    "LLM": "llm",
    "RequestOutput": "output",
    "CompletionOutput": "output",
    "SamplingParams": "sampling_params",
    "Engine": "engine",
    "EngineOptions": "options",
    "PromptLookup": "speculative",
    "DraftModel": "speculative",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"aiinfra.engine.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'aiinfra.engine' has no attribute {name!r}")
