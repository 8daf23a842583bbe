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
from aiinfra.engine.sampler import Logprob, Sampler
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.model import KVCache, Transformer


@dataclass(frozen=True)
class TokenStep:
    """One token made: its id, how many tokens the model had to run for it, and how long that took; and, if
    `params.logprobs` asked for it, how likely it and others were."""

    token_id: int
    tokens_run: int
    step_seconds: float
    logprobs: dict[int, Logprob] | None = None


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
    # The last token made is never run, so it needs no slot.
    cache = KVCache(model.config, len(prompt) + params.max_tokens - 1, dtype=model.dtype, device=model.device)

    def forward(tokens: list[int]) -> tuple[Tensor, int]:
        new = tokens[cache.length:]                                                    # prompt first, then one
        hidden = model.hidden(torch.tensor([new], device=model.device), kv=cache)
        return model.lm_head(hidden[:, -1])[0], len(new)

    yield from _loop(model, prompt, params, eos_ids, answer, forward)


def check_ids(prompt: list[int], vocab_size: int) -> None:
    """Raise ValueError for a prompt without tokens, or with one that the model does not know."""
    if not prompt:
        raise ValueError("the prompt is empty: the model needs at least one token to continue from.")
    for token in prompt:
        if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < vocab_size:
            raise ValueError(f"token id {token!r} is outside the vocabulary of {vocab_size:,}: ids are whole "
                             f"numbers from 0 to {vocab_size - 1:,}. Encode the prompt with the model's own tokenizer.")


def stop_ids_of(params: SamplingParams, eos_ids: tuple[int, ...], vocab_size: int) -> frozenset[int]:
    """The ids that end an answer; those that the model cannot say are left out."""
    ids = (*(() if params.ignore_eos else eos_ids), *params.stop_token_ids)
    return frozenset(i for i in ids if i < vocab_size)


def _loop(model: Transformer, prompt: list[int], params: SamplingParams, eos_ids: tuple[int, ...], answer: int,
          forward: Callable[[list[int]], tuple[Tensor, int]]) -> Iterator[TokenStep]:
    check_ids(prompt, model.config.vocab_size)
    sampler = Sampler(params, prompt, answer)
    stop_ids = stop_ids_of(params, eos_ids, model.config.vocab_size)
    tokens = list(prompt)
    for made in range(params.max_tokens):
        start = time.perf_counter()
        with torch.inference_mode():
            logits, tokens_run = forward(tokens)
            choice = sampler.choose(logits, stop_ids if made < params.min_tokens else ())
        synchronize(model.device)
        tokens.append(choice.token_id)
        yield TokenStep(choice.token_id, tokens_run, time.perf_counter() - start, choice.logprobs)
        if choice.token_id in stop_ids:
            return
