"""What goes back: OpenAI's objects, whole or in pieces, for chats and for completions.

    whole    {"object": "chat.completion", "choices": [{"index", "message", "finish_reason"}, …], "usage"}
    pieces   {"object": "chat.completion.chunk", "choices": [{"index", "delta", "finish_reason"}], …}, …
             and, only with include_usage, a last one whose choices are [] and that has the usage

Both read the same `Growth`: so a streamed answer is the other one, to the byte. A prompt is counted once,
whatever n. Notebook 15.
"""

import time
from collections import Counter
from typing import Any

from aiinfra.checkpoint import Tokenizer
from aiinfra.serve.logprobs import CompletionLogprobs, chat_logprobs
from aiinfra.serve.protocol import AnswerRequest, ChatRequest, StreamOptions
from aiinfra.serve.ticket import Growth, Ticket

Json = dict[str, Any]
_NO_OPTIONS = StreamOptions()


class HttpAnswer:
    """The answer to one request, as it is written. A chat and a completion differ in their words."""

    whole_object: str
    piece_object: str

    def __init__(self, answer_id: str, request: AnswerRequest, ticket: Ticket, tokenizer: Tokenizer) -> None:
        self.request = request
        self.ticket = ticket
        self.tokenizer = tokenizer
        self.head = {"id": answer_id, "created": int(time.time()), "model": request.model}
        options = request.stream_options or _NO_OPTIONS
        self.continuous_usage = bool(options.continuous_usage_stats)
        self.include_usage = bool(options.include_usage)
        self._tokens: Counter[int] = Counter()             # of each answer, that were sent
        self._characters: Counter[int] = Counter()

    def whole(self, grown: list[Growth]) -> Json:
        """The complete answer, from the last growth of each."""
        choices = []
        for growth in sorted(grown, key=lambda growth: growth.index):
            choices.append(self._ending(growth) | self.said(growth, 0, growth.text))
            self._tokens[growth.index] = growth.tokens
        return {**self.head, "object": self.whole_object, "choices": choices, "usage": self.usage()}

    def opening(self) -> list[Json]:
        """The pieces before the first token."""
        return []

    def piece(self, growth: Growth) -> Json | None:
        """What an answer has grown by since its last piece; None if nothing of it can be seen."""
        index = growth.index
        new = growth.text[self._characters[index]:]
        if not new and not growth.finish_reason:
            return None
        choice = self._ending(growth) | self.added(growth, self._tokens[index], new)
        self._characters[index] = len(growth.text)
        self._tokens[index] = growth.tokens
        return self.chunk([choice])

    def chunk(self, choices: list[Json]) -> Json:
        """A piece of a stream."""
        chunk = {**self.head, "object": self.piece_object, "choices": choices}
        if self.continuous_usage:
            chunk["usage"] = self.usage()
        elif self.include_usage:
            chunk["usage"] = None
        return chunk

    def last(self) -> Json:
        """The piece that has the usage, and no choices."""
        return self.chunk([]) | {"usage": self.usage()}

    def usage(self) -> Json:
        """Tokens so far."""
        prompt = self.ticket.prompt_tokens
        made = self._tokens.total()
        return {
            "prompt_tokens": prompt,
            "completion_tokens": made,
            "total_tokens": prompt + made,
            "prompt_tokens_details": {"cached_tokens": self.ticket.cached_tokens},
        }

    def said(self, growth: Growth, first: int, text: str) -> Json:
        """Of a whole answer: its text, and log-probabilities from token `first` on."""
        raise NotImplementedError

    def added(self, growth: Growth, first: int, text: str) -> Json:
        """The same of a piece."""
        return self.said(growth, first, text)

    def _ending(self, growth: Growth) -> Json:
        return {
            "index": growth.index,
            "finish_reason": growth.finish_reason,
            "stop_reason": growth.stop_reason,
        }


class ChatAnswer(HttpAnswer):
    """/v1/chat/completions."""

    whole_object = "chat.completion"
    piece_object = "chat.completion.chunk"
    request: ChatRequest

    def opening(self) -> list[Json]:
        """Who speaks, once for each answer."""
        answers = range(self.ticket.params.n)
        delta = {"role": "assistant", "content": ""}
        return [self.chunk([{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}])
                for index in answers]

    def said(self, growth: Growth, first: int, text: str) -> Json:
        """See HttpAnswer."""
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"message": message, "logprobs": self._logprobs(growth, first)}

    def added(self, growth: Growth, first: int, text: str) -> Json:
        """See HttpAnswer."""
        delta = {"content": text} if text else {}
        return {"delta": delta, "logprobs": self._logprobs(growth, first)}

    def _logprobs(self, growth: Growth, first: int) -> Json | None:
        if not self.request.logprobs:
            return None
        top = self.request.top_logprobs or 0
        return chat_logprobs(growth.out, first, growth.tokens, top, self.tokenizer)


class CompletionAnswer(HttpAnswer):
    """/v1/completions."""

    whole_object = "text_completion"
    piece_object = "text_completion"

    def __init__(self, answer_id: str, request: AnswerRequest, ticket: Ticket, tokenizer: Tokenizer) -> None:
        super().__init__(answer_id, request, ticket, tokenizer)
        self._logprobs: dict[int, CompletionLogprobs] = {}

    def said(self, growth: Growth, first: int, text: str) -> Json:
        """See HttpAnswer."""
        top = self.ticket.params.logprobs
        if top is None:
            return {"text": text, "logprobs": None}
        logprobs = self._logprobs.setdefault(growth.index, CompletionLogprobs(self.tokenizer))
        return {"text": text, "logprobs": logprobs.piece(growth.out, first, growth.tokens, top)}
