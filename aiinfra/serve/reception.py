"""Between a form and the engine: which model, is there a place, how many tokens, is there room to answer?

The order is one of cost. What can be refused without tokenizing is refused first; a place in the queue is
counted before the tokenizer runs, and weighed after. A long text is tokenized on a thread of its own, so that
the streams of others go on.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from aiinfra.engine.output import RequestOutput
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.engine.text_engine import PromptTooLong
from aiinfra.errors import nearest
from aiinfra.serve.admission import Admission
from aiinfra.serve.engine_thread import EngineThread
from aiinfra.serve.protocol import ChatRequest, CompletionRequest
from aiinfra.serve.refusal import Refusal, quote
from aiinfra.serve.ticket import Ticket

_LONG = 10_000                       # characters that are tokenized in about ten milliseconds
_TOO_LONG = "context_length_exceeded"
_CHARACTERS = 4                      # a token, in most texts

Body = ChatRequest | CompletionRequest
Read = Callable[[], RequestOutput]


class Reception:
    """Takes requests for the model that is called `name`."""

    def __init__(self, thread: EngineThread, admission: Admission, name: str) -> None:
        self.thread = thread
        self.admission = admission
        self.name = name
        self.tokenizer = thread.llm.tokenizer

    async def take(self, body: CompletionRequest) -> Ticket:
        """A completion's ticket. Raises Refusal."""
        params = self._checked(body)
        prompts = body.prompts
        reads = [partial(self._read, prompt, params) for prompt in prompts]
        return await self._enter(body, params, reads, [_guess(prompt) for prompt in prompts])

    async def take_chat(self, body: ChatRequest) -> Ticket:
        """A chat's ticket. Raises Refusal."""
        params = self._checked(body)
        conversation = body.conversation
        guess = sum(_guess(message["content"]) for message in conversation)
        read = partial(self._read_chat, conversation, params)
        return await self._enter(body, params, [read], [guess])

    def check_model(self, name: str) -> None:
        """Raise Refusal for a model that is not served here."""
        if name != self.name:
            near = nearest(name, [self.name])
            raise Refusal(404, f"model {quote(name)} is not served here.{near} Served: {self.name}.",
                          param="model", code="model_not_found")

    def _checked(self, body: Body) -> SamplingParams:
        self.check_model(body.model)
        self.thread.check_open()
        return body.params

    async def _enter(self, body: Body, params: SamplingParams, reads: list[Read],
                     guesses: list[int]) -> Ticket:
        streams = body.streams
        places = self.admission.enter(params.n, guesses)
        try:
            requests = await _read_all(reads, sum(guesses), body.asks)
            for place, request in zip(places, requests):
                self._check_room(len(request.prompt_token_ids), body)
                place.weigh(len(request.prompt_token_ids))
            return self.thread.submit(requests, params, places, streams)
        except BaseException:
            for place in places:
                place.leave()
            raise

    def _check_room(self, prompt: int, body: Body) -> None:
        """vLLM and OpenAI refuse a length that cannot be; cut down in silence, an answer would look as if it
        had its limit from the client."""
        context = self.thread.context
        most = context - prompt
        if most < 1:
            raise Refusal(400, f"the prompt is {prompt:,} tokens; the context is {context:,}, and one is "
                               "needed for the answer. Shorten the prompt.", param=body.asks, code=_TOO_LONG)
        asked = body.asked_tokens
        if asked is not None and asked > most:
            name = "max_tokens" if body.max_tokens is not None else "max_completion_tokens"
            raise Refusal(400, f"{name}={asked:,} after a prompt of {prompt:,} tokens; the context is "
                               f"{context:,}. Ask for at most {most:,}, or leave it out.",
                          param=name, code=_TOO_LONG)

    def _read(self, prompt: str | list[int], params: SamplingParams) -> RequestOutput:
        return self.thread.llm.texts.request(prompt, params)

    def _read_chat(self, conversation: list[dict[str, Any]], params: SamplingParams) -> RequestOutput:
        return self._read(self.tokenizer.encode_chat(conversation), params)


def _guess(prompt: str | list[int]) -> int:
    """About so many tokens; a text may yet turn out to have more."""
    return len(prompt) // _CHARACTERS if isinstance(prompt, str) else len(prompt)


async def _read_all(reads: list[Read], guess: int, asks: str) -> list[RequestOutput]:
    def read_all() -> list[RequestOutput]:
        return [read() for read in reads]
    try:
        if guess * _CHARACTERS < _LONG:
            return read_all()
        return await asyncio.to_thread(read_all)
    except PromptTooLong as error:
        raise Refusal(400, str(error), param=asks, code=_TOO_LONG) from error
    except ValueError as error:
        raise Refusal(400, str(error), param=asks) from error
