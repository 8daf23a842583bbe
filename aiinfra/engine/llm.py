"""`LLM`: prompts in, texts out, in vLLM's shapes, over the engine that runs them together.

    for output in LLM().generate(["The sea is", "Once"], SamplingParams(max_tokens=32)):
        print(output.outputs[0].text)

    text ─ tokenizer ─> ids ─> engine ─> ids ─ stream decoder ─> text ─ stop strings ─> what you see

Text lives here and nowhere below. Whatever interrupts a call, its requests leave the engine.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from numbers import Integral
from pathlib import Path
from random import Random
from typing import Any

import torch
from tqdm import tqdm

from aiinfra.engine.engine import Engine
from aiinfra.engine.options import EngineOptions
from aiinfra.engine.record import Logprob, Made
from aiinfra.engine.request import check_ids
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.errors import nearest
from aiinfra.checkpoint import DEFAULT_MODEL, StreamDecoder, Tokenizer, load

# vLLM's name of an option -> ours
_OUR_NAMES = {
    "max_num_seqs": "max_running",
    "max_num_batched_tokens": "token_budget",
    "enable_prefix_caching": "prefix_caching",
}
Prompt = str | list[int] | dict[str, Any]        # a dict: vLLM's {"prompt": …} or {"prompt_token_ids": …}
Message = dict[str, Any]


@dataclass
class CompletionOutput:
    """One answer of a request's n. Both kinds of log-probabilities are None unless asked for."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None                  # the sum over the tokens made
    logprobs: list[dict[int, Logprob]] | None = None         # of each token: itself and the likeliest, by id
    # "stop" (end of sequence, stop string or id), "length", "error" (the logits were not numbers); None: it
    # grows.
    finish_reason: str | None = None
    stop_reason: int | str | None = None                     # the stop string or id that ended it, if one did


@dataclass
class RequestOutput:
    """A request and its answers so far."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    num_cached_tokens: int | None = None                     # of the prompt, found in the cache; None: waits

    @property
    def finished(self) -> bool:
        """True once every answer has a finish_reason."""
        return all(output.finish_reason for output in self.outputs)


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
        self._seeds = None if seed is None else Random(seed)         # for requests without one of their own
        self._begun: dict[str, RequestOutput] = {}                   # by id, until the engine runs them
        self.model = engine.model
        self.tokenizer = tokenizer
        self.engine = engine
        self.max_model_len = engine.max_model_len
        self._request_numbers = count()
        self._texts: dict[tuple[str, int], _AnswerText] = {}       # by request id and index
        self._made: deque[Made] = deque()                            # by the last step, not yet handed out

    @property
    def idle(self) -> bool:
        """True if nothing is being answered, and nothing is left in the engine."""
        return not self._texts and not self._made and self.engine.idle

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
        if isinstance(prompts, str | dict) or (_is_ids(prompts) and len(prompts)):
            prompts = [prompts]
        params = self._params_for(list(prompts), sampling_params)
        # All are checked before any is run.
        requests = [self._request(prompt, one) for prompt, one in zip(prompts, params)]
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
        return self._follow(self._request(prompt, params), params)

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

    def _request(self, prompt: Prompt, params: SamplingParams) -> RequestOutput:
        if isinstance(prompt, dict):                         # vLLM's other form
            prompt = prompt.get("prompt", prompt.get("prompt_token_ids"))
        text = None
        if isinstance(prompt, str):
            text = prompt
            ids = self.tokenizer.encode(text)
        elif _is_ids(prompt):
            ids = [int(token) for token in prompt]
        else:
            kind = type(prompt).__name__
            raise ValueError(f"a prompt must be a string or a list of token ids; got {kind}.")
        check_ids(ids, self.model.config.vocab_size)
        if len(ids) >= self.max_model_len:
            raise ValueError(f"the prompt is {len(ids):,} tokens; the context is {self.max_model_len:,}, and "
                             "one is needed for the answer. Shorten the prompt.")
        return RequestOutput(
            request_id=str(next(self._request_numbers)),
            prompt=text,
            prompt_token_ids=ids,
            outputs=[CompletionOutput(i) for i in range(params.n)],
        )

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
        added: list[str] = []
        try:
            for request, one in zip(requests, params):
                self._enter(request, one, added)
            while not all(request.finished for request in requests):
                self._step()
                yield
        finally:                             # also on Ctrl-C, or when a stream is dropped half-way
            for request_id in added:
                self.engine.abort(request_id)
            for request in requests:
                self._begun.pop(request.request_id, None)
                for out in request.outputs:
                    self._texts.pop((request.request_id, out.index), None)

    def _enter(self, request: RequestOutput, params: SamplingParams, added: list[str]) -> None:
        """Give a request to the engine; `added` then has its id."""
        name, prompt = request.request_id, request.prompt_token_ids
        params = params.within(self.max_model_len - len(prompt))
        if params.seed is None and self._seeds is not None:
            params = replace(params, seed=self._seeds.getrandbits(63))
        silent = params.stop_ids(self.tokenizer.eos_ids, self.model.config.vocab_size)
        for out in request.outputs:
            self._texts[name, out.index] = _AnswerText(out, params, silent, self.tokenizer)
        added.append(name)
        self._begun[name] = request
        try:
            self.engine.add(name, prompt, params, self.tokenizer.eos_ids)
        except ValueError:
            added.pop()                      # refused: whoever has this id in the engine is not ours
            raise

    def _step(self) -> None:
        """Hand out the tokens of one engine step, which may be another call's too: they are kept until
        then."""
        if not self._made:
            if not self.engine.unfinished:
                raise RuntimeError("the engine has nothing left to do and a request has no end: its last "
                                   "step was broken off. Ask again.")
            record = self.engine.step()
            for name, first, _ in record.ran:
                if name in self._begun:      # it starts behind what it found in the cache
                    self._begun.pop(name).num_cached_tokens = first
            self._made.extend(record.made)
        while self._made:
            self._hand_out(self._made[0])
            self._made.popleft()

    def _hand_out(self, made: Made) -> None:
        answer = self._texts.get((made.request_id, made.index))
        if answer is None or answer.out.finish_reason:
            return                           # dropped; or a stop string came earlier in this step
        answer.push(made)
        if answer.out.finish_reason and not made.finish_reason:
            self.engine.abort(made.request_id, made.index)   # a stop string: the engine knows no text


def our_options(options: dict[str, Any]) -> dict[str, Any]:
    """An engine's options under our names, which some callers write under vLLM's. Raises TypeError, naming
    the nearest, for an unknown one."""
    ours = {_OUR_NAMES.get(key, key): value for key, value in options.items()}
    known = EngineOptions.names()
    for key in ours:
        if key not in known:
            raise TypeError(f"LLM has no option {key!r}.{nearest(key, known)} Known: {', '.join(known)}.")
    return ours


class _AnswerText:
    """One answer's text, as its tokens come in."""

    def __init__(self, out: CompletionOutput, params: SamplingParams, silent: frozenset[int],
                 tokenizer: Tokenizer) -> None:
        self.out = out
        self.params = params
        self.tokenizer = tokenizer
        self.silent = silent                       # ids that end an answer and are not shown
        self.decoder = StreamDecoder(tokenizer)
        self.decoded = ""                          # the text shown may lag behind it
        self.protected = 0                         # characters of the first min_tokens, free of stop strings
        if params.logprobs is not None:
            out.logprobs = []
            out.cumulative_logprob = 0.0

    def push(self, made: Made) -> None:
        """Add one token; sets finish_reason at the end."""
        out = self.out
        if made.token_id is not None:
            out.token_ids.append(made.token_id)
            if made.token_id not in self.silent:
                self.decoded += self.decoder.push(made.token_id)
        if made.logprobs is not None:
            self._tell(made.logprobs)
            out.cumulative_logprob += made.logprobs[made.token_id].logprob
        final = bool(made.finish_reason)
        if final:
            self.decoded += self.decoder.flush()
        if len(out.token_ids) <= self.params.min_tokens:
            self.protected = len(self.decoded)
        rest, stop = cut_at_stop(self.decoded[self.protected:], self.params.stop, final)
        out.text = self.decoded[:self.protected] + rest
        out.finish_reason = made.finish_reason
        if stop is not None:
            out.finish_reason, out.stop_reason = "stop", stop
        elif made.finish_reason == "stop" and made.token_id in self.params.stop_token_ids:
            out.stop_reason = made.token_id

    def _tell(self, logprobs: dict[int, Logprob]) -> None:
        """Add the log-probabilities of one token, each with its text."""
        told = {}
        for token, one in logprobs.items():
            text = self.tokenizer.decode([token], skip_special_tokens=False)
            told[token] = replace(one, decoded_token=text)
        self.out.logprobs.append(told)


def cut_at_stop(text: str, stops: Sequence[str], final: bool) -> tuple[str, str | None]:
    """`text` up to the first stop string, and that string, if there was one. Unless `final`, also without an
    ending that may yet grow into a stop string, so that what a stream has shown is never taken back."""
    found = [stop for stop in stops if stop in text]
    if found:
        first = min(found, key=text.find)
        return text[:text.find(first)], first
    if final:
        return text, None
    held = 0
    for stop in stops:
        for n in range(held + 1, len(stop)):
            if text.endswith(stop[:n]):
                held = n
    return text[:len(text) - held], None


def _is_ids(prompt: object) -> bool:
    if isinstance(prompt, str | bytes | dict) or not hasattr(prompt, "__getitem__"):
        return False
    return all(isinstance(token, Integral) and not isinstance(token, bool) for token in prompt)
