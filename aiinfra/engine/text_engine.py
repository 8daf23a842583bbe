"""An engine whose requests are text: what `LLM` and the server both step, so that their answers are the same.

    prompt ─ request ─> ids, checked ─ add ─> engine ─ step ─> StepRecord
                                                        └─ and every answer's text has grown by its tokens

Text lives here and above, and nowhere below. Whoever adds a request takes it out again, finished or not.
Notebook 15.
"""

from collections import deque
from dataclasses import replace
from itertools import count
from numbers import Integral
from random import Random
from typing import Any

from aiinfra.checkpoint import Tokenizer
from aiinfra.engine.engine import Engine
from aiinfra.engine.output import AnswerText, CompletionOutput, RequestOutput
from aiinfra.engine.record import Made, StepRecord
from aiinfra.engine.request import check_ids
from aiinfra.engine.sampling_params import SamplingParams

Prompt = str | list[int] | dict[str, Any]        # a dict: vLLM's {"prompt": …} or {"prompt_token_ids": …}


class PromptTooLong(ValueError):
    """It leaves no room in the context."""


class TextEngine:
    """`engine` with a tokenizer. seed: makes requests without one of their own draw the same in every run.

    As of the engine itself: one thread at a time."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, seed: int | None = None) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self._seeds = None if seed is None else Random(seed)         # for requests without one of their own
        self._numbers = count()
        self._begun: dict[str, RequestOutput] = {}                   # by id, until the engine runs them
        self._texts: dict[tuple[str, int], AnswerText] = {}          # by request id and index
        self._made: deque[Made] = deque()                            # by the last step, not yet handed out

    @property
    def idle(self) -> bool:
        """True if nothing is being answered, and nothing is left in the engine."""
        return not self._texts and not self._made and self.engine.idle

    def request(self, prompt: Prompt, params: SamplingParams) -> RequestOutput:
        """What will grow, for a prompt that is a string or token ids. Raises ValueError for an empty prompt,
        an unknown token; PromptTooLong for one that leaves no room in the context."""
        if isinstance(prompt, dict):                         # vLLM's other form
            prompt = prompt.get("prompt", prompt.get("prompt_token_ids"))
        text = None
        if isinstance(prompt, str):
            text = prompt
            ids = self.tokenizer.encode(text)
        elif is_ids(prompt):
            ids = [int(token) for token in prompt]
        else:
            kind = type(prompt).__name__
            raise ValueError(f"a prompt must be a string or a list of token ids; got {kind}.")
        check_ids(ids, self.engine.model.config.vocab_size)
        context = self.engine.max_model_len
        if len(ids) >= context:
            raise PromptTooLong(f"the prompt is {len(ids):,} tokens; the context is {context:,}, and one is "
                                "needed for the answer. Shorten the prompt.")
        return RequestOutput(
            request_id=str(next(self._numbers)),
            prompt=text,
            prompt_token_ids=ids,
            outputs=[CompletionOutput(i) for i in range(params.n)],
        )

    def add(self, request: RequestOutput, params: SamplingParams) -> None:
        """Give a request to the engine. Raises ValueError, with nothing added, if it can never fit."""
        name, prompt = request.request_id, request.prompt_token_ids
        params = params.within(self.engine.max_model_len - len(prompt))
        if params.seed is None and self._seeds is not None:
            params = replace(params, seed=self._seeds.getrandbits(63))
        silent = params.stop_ids(self.tokenizer.eos_ids, self.engine.model.config.vocab_size)
        try:
            for out in request.outputs:
                self._texts[name, out.index] = AnswerText(out, params, silent, self.tokenizer)
            self._begun[name] = request
            self.engine.add(name, prompt, params, self.tokenizer.eos_ids)
        except ValueError:
            self._forget(request)             # refused: whoever has this id in the engine is not ours
            raise

    def drop(self, request: RequestOutput) -> None:
        """Take a request out, wherever it is: its blocks are free, and it grows no more."""
        if (request.request_id, 0) in self._texts:           # else it never came in
            self.engine.abort(request.request_id)
        self._forget(request)

    def _forget(self, request: RequestOutput) -> None:
        self._begun.pop(request.request_id, None)
        for out in request.outputs:
            self._texts.pop((request.request_id, out.index), None)

    def step(self) -> StepRecord | None:
        """One engine step; its tokens are handed out. Those that an earlier one, broken off, had made come
        first: then there is no new step, and None."""
        record = None
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
        return record

    def _hand_out(self, made: Made) -> None:
        answer = self._texts.get((made.request_id, made.index))
        if answer is None or answer.out.finish_reason:
            return                           # dropped; or a stop string came earlier in this step
        answer.push(made)
        if answer.out.finish_reason and not made.finish_reason:
            self.engine.abort(made.request_id, made.index)   # a stop string: the engine knows no text


def is_ids(prompt: object) -> bool:
    """True for a sequence of whole numbers, of whatever library."""
    if isinstance(prompt, str | bytes | dict) or not hasattr(prompt, "__getitem__"):
        return False
    return all(isinstance(token, Integral) and not isinstance(token, bool) for token in prompt)
