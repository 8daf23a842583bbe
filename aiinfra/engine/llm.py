"""`LLM`: prompts in, texts out, in vLLM's shapes. Here one request runs after another.

    for output in LLM().generate(["The sea is", "Once"], SamplingParams(max_tokens=32)):
        print(output.outputs[0].text)

The interface stays when the engine underneath learns to run many requests at once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from aiinfra.engine.generate import generate_cached
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.model import DEFAULT_MODEL, StreamDecoder, load

Prompt = str | list[int]
Message = dict[str, Any]


@dataclass
class CompletionOutput:
    """One answer. finish_reason: "stop" (end of sequence, stop string or id), "length", or None while it grows."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None


@dataclass
class RequestOutput:
    """A request and its answers so far."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]

    @property
    def finished(self) -> bool:
        """True once every answer has a finish_reason."""
        return all(output.finish_reason for output in self.outputs)


class LLM:
    """A model that answers. Arguments as `aiinfra.model.load`; `max_model_len` lowers the context limit."""

    def __init__(self, model: str | Path = DEFAULT_MODEL, dtype: str | torch.dtype | None = None,
                 device: str | torch.device | None = None, max_model_len: int | None = None, **load_options: Any) -> None:
        self.model, self.tokenizer = load(model, dtype, device, **load_options)
        limit = self.model.config.max_position_embeddings
        if max_model_len is not None and not 1 <= max_model_len <= limit:
            raise ValueError(f"max_model_len={max_model_len}; the model's context is {limit:,} tokens: choose 1 to {limit:,}.")
        self.max_model_len = max_model_len or limit
        self._request_numbers = count()

    def generate(self, prompts: Prompt | Sequence[Prompt], sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
                 use_tqdm: bool | None = None) -> list[RequestOutput]:
        """Complete each prompt (a string or a list of token ids); one output a prompt, in order.

        sampling_params: one for all, or one each; None: SamplingParams(). use_tqdm: None shows a bar on a
        terminal only. Raises ValueError for an empty prompt or one that leaves no room in the context.
        """
        prompts = [prompts] if isinstance(prompts, str) or _is_ids(prompts) else list(prompts)
        params = self._params_for(prompts, sampling_params)
        requests = [self._request(prompt) for prompt in prompts]        # all are checked before any is run
        bar = tqdm(zip(requests, params), total=len(requests), desc="requests", disable=None if use_tqdm is None else not use_tqdm)
        for request, one in bar:
            for _ in self._run(request, one):
                pass
        return requests

    def chat(self, messages: list[Message] | Sequence[list[Message]], sampling_params: SamplingParams | None = None,
             use_tqdm: bool | None = None) -> list[RequestOutput]:
        """Answer a conversation `[{"role": "user", "content": "…"}, …]`, or several. Raises as `generate`."""
        chats = [messages] if messages and isinstance(messages[0], dict) else list(messages)
        return self.generate([self.tokenizer.encode_chat(chat) for chat in chats] or [[]], sampling_params, use_tqdm)

    def stream(self, prompt: Prompt, sampling_params: SamplingParams | None = None) -> Iterator[RequestOutput]:
        """As `generate` for one prompt, yielding the growing output after every token. Text only grows."""
        return self._run(self._request(prompt), sampling_params or SamplingParams())

    def _params_for(self, prompts: list[Prompt], params: SamplingParams | Sequence[SamplingParams] | None) -> list[SamplingParams]:
        if params is None or isinstance(params, SamplingParams):
            return [params or SamplingParams()] * len(prompts)
        if len(params) != len(prompts):
            raise ValueError(f"{len(params)} sampling_params for {len(prompts)} prompts: give one for all, or one each.")
        return list(params)

    def _request(self, prompt: Prompt) -> RequestOutput:
        if isinstance(prompt, str):
            if any("\ud800" <= c <= "\udfff" for c in prompt):        # how Python carries bytes that are not UTF-8
                raise ValueError(f"the prompt is not valid Unicode: {ascii(prompt[:40])}. Convert it to UTF-8 first.")
            text, ids = prompt, self.tokenizer.encode(prompt)
        elif _is_ids(prompt):
            text, ids = None, list(prompt)
        else:
            raise ValueError(f"a prompt must be a string or a list of token ids; got {type(prompt).__name__}.")
        if not ids:
            raise ValueError("the prompt is empty: the model needs at least one token to continue from.")
        bad = [i for i in ids if not 0 <= i < self.model.config.vocab_size]
        if bad:
            raise ValueError(f"token id {bad[0]} is outside the vocabulary of {self.model.config.vocab_size:,}.")
        if len(ids) >= self.max_model_len:
            raise ValueError(f"the prompt is {len(ids):,} tokens; the context is {self.max_model_len:,}, and one is "
                             "needed for the answer. Shorten the prompt.")
        return RequestOutput(str(next(self._request_numbers)), text, ids, [CompletionOutput(0)])

    def _run(self, request: RequestOutput, params: SamplingParams) -> Iterator[RequestOutput]:
        """Generate into `request`, yielding it after every token."""
        room = self.max_model_len - len(request.prompt_token_ids)
        out, decoder = request.outputs[0], StreamDecoder(self.tokenizer)
        if params.max_tokens > room:
            params = replace_max_tokens(params, room)
        shown = ""                                          # all text decoded; `out.text` may lag behind it
        eos = () if params.ignore_eos else self.tokenizer.eos_ids
        for step in generate_cached(self.model, request.prompt_token_ids, params, eos):
            out.token_ids.append(step.token_id)
            if step.token_id in (*eos, *params.stop_token_ids):
                out.finish_reason = "stop"
            else:
                shown += decoder.push(step.token_id)
            done = out.finish_reason or len(out.token_ids) == params.max_tokens
            if done:
                shown += decoder.flush()
            out.text, stopped = cut_at_stop(shown, params.stop, final=bool(done))
            if stopped and len(out.token_ids) >= params.min_tokens:
                out.finish_reason = "stop"
            elif done:
                out.finish_reason = out.finish_reason or "length"
            yield request
            if out.finish_reason:
                return


def replace_max_tokens(params: SamplingParams, max_tokens: int) -> SamplingParams:
    """The same parameters with another max_tokens (and min_tokens no larger)."""
    return SamplingParams(**{**vars(params), "max_tokens": max_tokens, "min_tokens": min(params.min_tokens, max_tokens)})


def cut_at_stop(text: str, stops: Sequence[str], final: bool) -> tuple[str, bool]:
    """`text` up to the first stop string, and whether there was one. Unless `final`, also without an ending
    that may yet grow into a stop string, so that what a stream has shown is never taken back."""
    found = [at for at in (text.find(stop) for stop in stops) if at >= 0]
    if found:
        return text[:min(found)], True
    if not final:
        held = max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        return text[:len(text) - held], False
    return text, False


def _is_ids(prompt: object) -> bool:
    return isinstance(prompt, list | tuple) and all(isinstance(i, int) and not isinstance(i, bool) for i in prompt)
