"""`LLM`: prompts in, texts out, in vLLM's shapes, over the engine that runs them together.

    for output in LLM().generate(["The sea is", "Once"], SamplingParams(max_tokens=32)):
        print(output.outputs[0].text)

    text ─ tokenizer ─> ids ─> engine ─> ids ─ stream decoder ─> text ─ stop strings ─> what you see

Text lives here and nowhere below. Whatever interrupts a call, its requests leave the engine.
"""

import inspect
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from aiinfra.engine.engine import Engine
from aiinfra.engine.generate import check_ids
from aiinfra.engine.record import Made
from aiinfra.engine.sampler import Logprob
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.errors import nearest
from aiinfra.checkpoint import DEFAULT_MODEL, StreamDecoder, Tokenizer, load

Prompt = str | list[int]
Message = dict[str, Any]


@dataclass
class CompletionOutput:
    """One answer of a request's n. finish_reason: "stop" (end of sequence, stop string or id), "length", "error"
    (the logits were not numbers), or None while it grows. logprobs: for each token, {token id: Logprob} of itself
    and of the likeliest; cumulative_logprob: the sum over the tokens made; both None unless asked for."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: list[dict[int, Logprob]] | None = None
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
    """A model that answers. `model`, `dtype`, `device` and `cache` as in `aiinfra.model.load`; `max_model_len`
    lowers the context limit; `quantization` is None, "int8" or "int4" (load's `quantize`); everything else goes
    to `Engine` (cache_bytes, max_running, token_budget, mode, …)."""

    def __init__(self, model: str | Path = DEFAULT_MODEL, dtype: str | torch.dtype | None = None,
                 device: str | torch.device | None = None, max_model_len: int | None = None,
                 cache: str | Path | None = None, quantization: str | None = None, **engine_options: Any) -> None:
        known = [key for key in inspect.signature(Engine.__init__).parameters if key not in ("self", "model")]
        for key in engine_options:                           # before the model is loaded
            if key not in known:
                raise TypeError(f"LLM has no option {key!r}.{nearest(key, known)} Known: {', '.join(known)}.")
        self.model, self.tokenizer = load(model, dtype, device, cache=cache, quantize=quantization)
        self.engine = Engine(self.model, max_model_len=max_model_len, **engine_options)
        self.max_model_len = self.engine.max_model_len
        self._request_numbers = count()
        self._answers: dict[tuple[str, int], _Answer] = {}       # by request id and index
        self._made: deque[Made] = deque()                        # by the last step, not yet handed out

    def generate(self, prompts: Prompt | Sequence[Prompt],
                 sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
                 use_tqdm: bool | None = None) -> list[RequestOutput]:
        """Complete each prompt (a string or a list of token ids); one output a prompt, in order.

        sampling_params: one for all, or one each; None: SamplingParams(). use_tqdm: None shows a bar on a
        terminal only. Raises ValueError for an empty prompt or one that leaves no room in the context.
        """
        prompts = [prompts] if isinstance(prompts, str | dict) or _is_ids(prompts) else list(prompts)
        params = self._params_for(prompts, sampling_params)
        requests = [self._request(prompt, one) for prompt, one in zip(prompts, params)]     # all are checked before any is run
        with tqdm(total=len(requests), desc="requests", disable=None if use_tqdm is None else not use_tqdm) as bar:
            for _ in self._serve(requests, params):
                bar.update(sum(request.finished for request in requests) - bar.n)
        return requests

    def chat(self, messages: list[Message] | Sequence[list[Message]], sampling_params: SamplingParams | None = None,
             use_tqdm: bool | None = None) -> list[RequestOutput]:
        """Answer a conversation `[{"role": "user", "content": "…"}, …]`, or several. Raises as `generate`."""
        one = isinstance(messages, dict) or not messages or not isinstance(messages[0], list)
        chats = [messages] if one else list(messages)
        return self.generate([self.tokenizer.encode_chat(chat) for chat in chats], sampling_params, use_tqdm)

    def stream(self, prompt: Prompt, sampling_params: SamplingParams | None = None) -> Iterator[RequestOutput]:
        """As `generate` for one prompt, yielding the growing output after every step that made a token. Text only grows."""
        params = sampling_params or SamplingParams()
        return self._follow(self._request(prompt, params), params)

    def _params_for(self, prompts: list[Prompt],
                    params: SamplingParams | Sequence[SamplingParams] | None) -> list[SamplingParams]:
        one_for_all = [SamplingParams() if params is None else params] * len(prompts)
        given = list(params) if isinstance(params, list | tuple) else one_for_all
        for one in given:
            if not isinstance(one, SamplingParams):
                raise ValueError(f"sampling_params must be SamplingParams, or a list of them; got {one!r}.")
        if len(given) != len(prompts):
            raise ValueError(f"{len(given)} sampling_params for {len(prompts)} prompts: give one for all, or one each.")
        return given

    def _request(self, prompt: Prompt, params: SamplingParams) -> RequestOutput:
        if isinstance(prompt, dict):                         # vLLM's other form
            prompt = prompt.get("prompt", prompt.get("prompt_token_ids"))
        if isinstance(prompt, str):
            text, ids = prompt, self.tokenizer.encode(prompt)
        elif _is_ids(prompt):
            text, ids = None, list(prompt)
        else:
            raise ValueError(f"a prompt must be a string or a list of token ids; got {type(prompt).__name__}.")
        check_ids(ids, self.model.config.vocab_size)
        if len(ids) >= self.max_model_len:
            raise ValueError(f"the prompt is {len(ids):,} tokens; the context is {self.max_model_len:,}, and one is "
                             "needed for the answer. Shorten the prompt.")
        return RequestOutput(str(next(self._request_numbers)), text, ids, [CompletionOutput(i) for i in range(params.n)])

    def _follow(self, request: RequestOutput, params: SamplingParams) -> Iterator[RequestOutput]:
        """Yield a request whenever it has grown, by this call's steps or by another's."""
        shown, ended = 0, False
        for _ in self._serve([request], [params]):
            made = sum(len(out.token_ids) for out in request.outputs)
            if made > shown or request.finished:
                shown, ended = made, request.finished
                yield request
        if not ended:                                        # another's step made its last token
            yield request

    def _serve(self, requests: list[RequestOutput], params: list[SamplingParams]) -> Iterator[None]:
        """Run `requests` to their ends, yielding after each engine step."""
        added = []
        try:
            for request, one in zip(requests, params):
                one = with_max_tokens(one, self.max_model_len - len(request.prompt_token_ids))
                eos = () if one.ignore_eos else self.tokenizer.eos_ids
                silent = {*eos, *one.stop_token_ids}
                for out in request.outputs:
                    self._answers[request.request_id, out.index] = _Answer(out, one, silent, self.tokenizer)
                added.append(request.request_id)
                try:
                    self.engine.add(request.request_id, request.prompt_token_ids, one, eos)
                except ValueError:
                    added.pop()                              # refused: whoever has this id in the engine is not ours
                    raise
            while not all(request.finished for request in requests):
                if not self._made and not self.engine.unfinished:
                    raise RuntimeError("the engine has nothing left to do and a request has no end: its last step was "
                                       "broken off. Ask again.")
                if not self._made:
                    self._made.extend(self.engine.step().made)
                while self._made:                            # kept until handed out: some are another call's
                    self._hand_out(self._made[0])
                    self._made.popleft()
                yield
        finally:                                             # also on Ctrl-C, or when a stream is dropped half-way
            for request_id in added:
                self.engine.abort(request_id)
            for request in requests:
                for out in request.outputs:
                    self._answers.pop((request.request_id, out.index), None)

    def _hand_out(self, made: Made) -> None:
        answer = self._answers.get((made.request_id, made.index))
        if answer is None or answer.out.finish_reason:       # dropped; or a stop string before this step's last token
            return
        answer.push(made)
        if answer.out.finish_reason and not made.finish_reason:
            self.engine.abort(made.request_id, made.index)   # a stop string: the engine knows no text


class _Answer:
    """One answer's text, as its tokens come in."""

    def __init__(self, out: CompletionOutput, params: SamplingParams, silent: set[int], tokenizer: Tokenizer) -> None:
        self.out, self.params, self.tokenizer = out, params, tokenizer
        self.silent = silent                                 # ids that end an answer and are not shown
        self.decoder = StreamDecoder(tokenizer)
        self.decoded = ""                                    # the text shown may lag behind it
        self.protected = 0                                   # characters of the first min_tokens: no stop string in there
        if params.logprobs is not None:
            out.logprobs, out.cumulative_logprob = [], 0.0

    def push(self, made: Made) -> None:
        """Add one token; sets finish_reason at the end."""
        out = self.out
        if made.token_id is not None:
            out.token_ids.append(made.token_id)
            if made.token_id not in self.silent:
                self.decoded += self.decoder.push(made.token_id)
        if made.logprobs is not None:
            out.logprobs.append({i: replace(one, decoded_token=self.tokenizer.decode([i], skip_special_tokens=False))
                                 for i, one in made.logprobs.items()})
            out.cumulative_logprob += made.logprobs[made.token_id].logprob
        if made.finish_reason:
            self.decoded += self.decoder.flush()
        if len(out.token_ids) <= self.params.min_tokens:
            self.protected = len(self.decoded)
        rest, stopped = cut_at_stop(self.decoded[self.protected:], self.params.stop, final=bool(made.finish_reason))
        out.text = self.decoded[:self.protected] + rest
        out.finish_reason = "stop" if stopped else made.finish_reason


def with_max_tokens(params: SamplingParams, room: int) -> SamplingParams:
    """The same parameters with max_tokens (and min_tokens) no larger than `room`."""
    if params.max_tokens <= room:
        return params
    return replace(params, max_tokens=room, min_tokens=min(params.min_tokens, room))


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
