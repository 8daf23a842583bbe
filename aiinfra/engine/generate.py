"""Two ways to write one token after another. Same tokens, very different bill.

    naive    every token:  run the model over prompt + all tokens so far       cost grows with length
    cached   once: prefill the prompt; then run one token against the KV cache  cost stays nearly flat

Both yield each token with the time that it took, and neither knows about text. Notebook 11.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from aiinfra.device import synchronize
from aiinfra.engine.record import Logprob
from aiinfra.engine.request import check_ids
from aiinfra.engine.sampler import Sampler
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.model import KVCache, Transformer


@dataclass(frozen=True)
class TokenStep:
    """One token made, and what it took."""

    token_id: int
    tokens_run: int                                  # so many the model had to run for it
    step_seconds: float
    logprobs: dict[int, Logprob] | None = None       # how likely it and others were, if asked for


def generate_naive(model: Transformer, prompt: list[int], params: SamplingParams,
                   eos_ids: tuple[int, ...] = (), answer: int = 0) -> Iterator[TokenStep]:
    """Recompute the whole sequence for every token. Ends after max_tokens or at an end of sequence,
    which is the last token yielded. prompt: token ids, at least one. answer: which of `params.n` is made."""
    def forward(tokens: list[int]) -> tuple[Tensor, int]:
        hidden = model.hidden(torch.tensor([tokens], device=model.device))            # [1, T, D]
        return model.lm_head(hidden[:, -1])[0], len(tokens)

    yield from _loop(model, prompt, params, eos_ids, answer, forward)


def generate_cached(model: Transformer, prompt: list[int], params: SamplingParams,
                    eos_ids: tuple[int, ...] = (), answer: int = 0) -> Iterator[TokenStep]:
    """As `generate_naive`, keeping keys and values: after the prompt, one token is run per token made."""
    params = up_to_the_context(params, prompt, model)
    # The last token made is never run, so it needs no slot.
    cache = KVCache(model.config, len(prompt) + params.max_tokens - 1, dtype=model.dtype, device=model.device)

    def forward(tokens: list[int]) -> tuple[Tensor, int]:
        new = tokens[cache.length:]                                                   # prompt first, then one
        hidden = model.hidden(torch.tensor([new], device=model.device), kv=cache)
        return model.lm_head(hidden[:, -1])[0], len(new)

    yield from _loop(model, prompt, params, eos_ids, answer, forward)


def up_to_the_context(params: SamplingParams, prompt: list[int], model: Transformer) -> SamplingParams:
    """With max_tokens None, as many as have room behind the prompt; else the same."""
    if params.max_tokens is not None:
        return params
    return params.within(max(1, model.config.max_position_embeddings - len(prompt)))


def _loop(model: Transformer, prompt: list[int], params: SamplingParams, eos_ids: tuple[int, ...],
          answer: int, forward: Callable[[list[int]], tuple[Tensor, int]]) -> Iterator[TokenStep]:
    check_ids(prompt, model.config.vocab_size)
    params = up_to_the_context(params, prompt, model)
    sampler = Sampler(params, prompt, answer)
    stop_ids = params.stop_ids(eos_ids, model.config.vocab_size)
    tokens = list(prompt)
    for made in range(params.max_tokens):
        start = time.perf_counter()
        with torch.inference_mode():
            logits, tokens_run = forward(tokens)
            banned = stop_ids if made < params.min_tokens else ()
            choice = sampler.choose(logits, banned)
        synchronize(model.device)
        tokens.append(choice.token_id)
        yield TokenStep(
            token_id=choice.token_id,
            tokens_run=tokens_run,
            step_seconds=time.perf_counter() - start,
            logprobs=choice.logprobs,
        )
        if choice.token_id in stop_ids:
            return
