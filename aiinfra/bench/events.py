"""Server-sent events, as OpenAI's wire has them, and when each of their tokens was there.

    bytes off the network ──lines──► data of one event ──JSON──► how many tokens it brings, at what time
      a read is no event, an event no token, and a byte no character

A chunk may bring several tokens (guesses that came true, a slow reader), so tokens are counted, not chunks:
by `usage.completion_tokens` in every chunk (vLLM's `continuous_usage_stats`), by `token_ids`, or, where a
server tells neither, one a chunk until the last usage gives the sum. A chunk that only names the role brings
none, nor does one whose `choices` are empty. Notebook 15.
"""

import json
from collections.abc import Iterator
from typing import Any

from aiinfra.errors import reading


class EventLines:
    """Bytes in, the data of whole events out, however the network has cut them."""

    def __init__(self) -> None:
        self._rest = b""                       # an unfinished line
        self._data: list[str] = []             # of an unfinished event

    def feed(self, read: bytes) -> Iterator[str]:
        """The data of each event that `read` ends. Comments and other fields are passed over."""
        *lines, self._rest = (self._rest + read).split(b"\n")
        for line in lines:
            line = line.rstrip(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" ").decode("utf-8"))
            elif not line and self._data:
                yield "\n".join(self._data)
                self._data.clear()


class Heard:
    """What one stream has said so far. Times are those given with each read."""

    def __init__(self) -> None:
        self.text = ""
        self.token_ids: list[int] = []
        self.at_seconds: list[float] = []      # of each token
        self.counted = True                    # False: the server left to guess how many tokens a chunk held
        self.done = False                      # the answer came to its end
        self.error = ""                        # what the server said went wrong, in the middle of the stream
        self.usage: dict[str, Any] = {}        # the last that was told
        self._events = EventLines()

    def feed(self, read: bytes, now: float) -> None:
        """Take in what was read at `now`. Raises ValueError for what is not OpenAI's wire."""
        for data in self._events.feed(read):
            if data.strip() == "[DONE]":
                self.done = True
                continue
            with reading(f"the event {data[:80]!r}"):
                self._chunk(json.loads(data), now)

    def close(self) -> None:
        """The stream has ended: tokens that nobody counted are spread over the chunks that held them."""
        told = self.usage.get("completion_tokens")
        if not self.counted and told and self.at_seconds:
            self.at_seconds = _spread(self.at_seconds, told)

    def _chunk(self, chunk: dict[str, Any], now: float) -> None:
        if chunk.get("error"):
            self.error = error_text(chunk)
            return
        usage = chunk.get("usage") or {}
        self.usage = self.usage | usage
        if choices := chunk.get("choices"):
            ids, piece, ended = _choice(choices[0])
            self.token_ids += ids
            self.text += piece
            self.done = self.done or ended
            self.at_seconds += [now] * self._new_tokens(usage, ids, piece)

    def _new_tokens(self, usage: dict[str, Any], ids: list[int], piece: str) -> int:
        told = usage.get("completion_tokens")
        if told is not None:
            return max(0, told - len(self.at_seconds))
        if ids:
            return len(ids)
        if piece:
            self.counted = False
        return len(piece[:1])


def error_text(answer: object) -> str:
    """The message in OpenAI's error object, or whatever the server said instead of one."""
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    message = error.get("message", error) if isinstance(error, dict) else error
    return " ".join(str(message).split())[:300]


def _choice(choice: dict[str, Any]) -> tuple[list[int], str, bool]:
    """(token ids, text, True if it is the last) of a chunk, a completion's or a chat's."""
    delta = choice.get("delta") or {}
    pieces = [choice.get("text"), delta.get("reasoning_content"), delta.get("content")]
    text = "".join(piece for piece in pieces if piece)
    return choice.get("token_ids") or [], text, choice.get("finish_reason") is not None


def _spread(chunks: list[float], tokens: int) -> list[float]:
    """`tokens` times, as evenly as may be over the times of the chunks."""
    return [chunks[i * len(chunks) // tokens] for i in range(tokens)]
