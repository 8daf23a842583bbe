"""`LLM`: prompts in, texts out, in vLLM's shapes, over the engine that runs them together.

    for output in LLM().generate(["The sea is", "Once"], SamplingParams(max_tokens=32)):
        print(output.outputs[0].text)

    text ─ tokenizer ─> ids ─> engine ─> ids ─ stream decoder ─> text ─ stop strings ─> what you see

What becomes of text is told in text_engine.py and output.py. Whatever interrupts a call, its requests leave
the engine.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from aiinfra.checkpoint import DEFAULT_MODEL, Tokenizer, load
from aiinfra.engine.engine import Engine
from aiinfra.engine.options import EngineOptions
from aiinfra.engine.output import RequestOutput
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.engine.text_engine import Prompt, TextEngine, is_ids
from aiinfra.errors import nearest

# vLLM's name of an option -> ours
_OUR_NAMES = {
    "max_num_seqs": "max_running",
    "max_num_batched_tokens": "token_budget",
    "enable_prefix_caching": "prefix_caching",
}
Message = dict[str, Any]


class LLM:
    """A model that answers. `model`, `dtype`, `device` and `cache` as in `aiinfra.checkpoint.load`;
    `max_model_len` lowers the context limit; `quantization` is None, "int8" or "int4" (load's `quantize`);
    `seed` makes requests without a seed of their own draw the same in every run; everything else goes to
    `Engine` (cache_bytes, max_running, token_budget, mode, …), some of it under vLLM's names, too:
    max_num_seqs, max_num_batched_tokens, enable_prefix_caching."""

    def __init__(self, model: str | Path = DEFAULT_MODEL, dtype: str | torch.dtype | None = None,
                 device: str | torch.device | None = None, max_model_len: int | None = None,
                 cache: str | Path | None = None, quantization: str | None = None,
                 seed: int | None = None, **engine_options: Any) -> None:
        engine_options = our_options(engine_options)         # before the model is loaded
        EngineOptions(max_model_len=max_model_len, **engine_options)      # and their values
        loaded, tokenizer = load(model, dtype, device, cache=cache, quantize=quantization)
        self._set_up(Engine(loaded, max_model_len=max_model_len, **engine_options), tokenizer, seed)

    @classmethod
    def around(cls, engine: Engine, tokenizer: Tokenizer, seed: int | None = None) -> "LLM":
        """An LLM over an engine and a tokenizer that are there already."""
        llm = cls.__new__(cls)
        llm._set_up(engine, tokenizer, seed)
        return llm

    def _set_up(self, engine: Engine, tokenizer: Tokenizer, seed: int | None = None) -> None:
        self.model = engine.model
        self.tokenizer = tokenizer
        self.engine = engine
        self.texts = TextEngine(engine, tokenizer, seed)

    @property
    def max_model_len(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return self.engine.max_model_len

    @property
    def idle(self) -> bool:
        """True if nothing is being answered, and nothing is left in the engine."""
        return self.texts.idle

    def get_tokenizer(self) -> Tokenizer:
        """The model's tokenizer, as vLLM hands it out."""
        return self.tokenizer

    def generate(self, prompts: Prompt | Sequence[Prompt],
                 sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
                 use_tqdm: bool | None = None) -> list[RequestOutput]:
        """Complete each prompt (a string or a list of token ids); one output a prompt, in order.

        sampling_params: one for all, or one each; None: SamplingParams(). use_tqdm: None shows a bar on a
        terminal only. No prompts: no outputs. Raises ValueError for an empty prompt or one that leaves no
        room in the context.
        """
        if isinstance(prompts, str | dict) or (is_ids(prompts) and len(prompts)):
            prompts = [prompts]
        params = self._params_for(list(prompts), sampling_params)
        # All are checked before any is run.
        requests = [self.texts.request(prompt, one) for prompt, one in zip(prompts, params)]
        hidden = None if use_tqdm is None else not use_tqdm
        with tqdm(total=len(requests), desc="requests", disable=hidden) as bar:
            for _ in self._serve(requests, params):
                bar.update(sum(request.finished for request in requests) - bar.n)
        return requests

    def chat(self, messages: list[Message] | Sequence[list[Message]],
             sampling_params: SamplingParams | None = None,
             use_tqdm: bool | None = None) -> list[RequestOutput]:
        """Answer a conversation `[{"role": "user", "content": "…"}, …]`, or several. Raises as `generate`."""
        one = isinstance(messages, dict) or not messages or not isinstance(messages[0], list)
        chats = [messages] if one else list(messages)
        return self.generate([self.tokenizer.encode_chat(chat) for chat in chats], sampling_params, use_tqdm)

    def stream(self, prompt: Prompt,
               sampling_params: SamplingParams | None = None) -> Iterator[RequestOutput]:
        """As `generate` for one prompt, yielding the growing output after every step that made a token.
        Text only grows."""
        params = sampling_params or SamplingParams()
        return self._follow(self.texts.request(prompt, params), params)

    def _params_for(self, prompts: list[Prompt],
                    params: SamplingParams | Sequence[SamplingParams] | None) -> list[SamplingParams]:
        if params is None:
            params = SamplingParams()
        if isinstance(params, list | tuple):
            given = list(params)
        else:
            given = [params] * len(prompts)
        for one in given:
            if not isinstance(one, SamplingParams):
                raise ValueError(f"sampling_params must be SamplingParams, or a list of them; got {one!r}.")
        if len(given) != len(prompts):
            raise ValueError(f"{len(given)} sampling_params for {len(prompts)} prompts: give one for all, or "
                             "one each.")
        return given

    def _follow(self, request: RequestOutput, params: SamplingParams) -> Iterator[RequestOutput]:
        """Yield a request whenever it has grown, by this call's steps or by another's."""
        shown = 0
        ended = False
        for _ in self._serve([request], [params]):
            made = sum(len(out.token_ids) for out in request.outputs)
            if made > shown or request.finished:
                shown = made
                ended = request.finished
                yield request
        if not ended:                                        # another's step made its last token
            yield request

    def _serve(self, requests: list[RequestOutput], params: list[SamplingParams]) -> Iterator[None]:
        """Run `requests` to their ends, yielding after each engine step."""
        try:
            for request, one in zip(requests, params):
                self.texts.add(request, one)
            while not all(request.finished for request in requests):
                self.texts.step()
                yield
        finally:                             # also on Ctrl-C, or when a stream is dropped half-way
            for request in requests:
                self.texts.drop(request)


def our_options(options: dict[str, Any]) -> dict[str, Any]:
    """An engine's options under our names, which some callers write under vLLM's. Raises TypeError, naming
    the nearest, for an unknown one."""
    ours = {_OUR_NAMES.get(key, key): value for key, value in options.items()}
    known = EngineOptions.names()
    for key in ours:
        if key not in known:
            raise TypeError(f"LLM has no option {key!r}.{nearest(key, known)} Known: {', '.join(known)}.")
    return ours
