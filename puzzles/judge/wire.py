"""What passes between the learner's process and the judge's: messages of plain data, over a socket.

    message = a line of JSON + arrays as raw bytes          {"do": "read", "lanes": 64, …}  addresses, mask

Nothing that comes from the learner's process can become an object here: names, numbers, texts and bytes, and
no more of them than a kernel has a use for. Whatever else comes is Malformed. Messages that need no answer
wait until one does, so that a kernel's stores cost nothing.
"""

import json
import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

_HEAD = struct.Struct("<II")                 # bytes of JSON, bytes of arrays
_MOST_JSON = 1 << 20
_MOST_BYTES = 1 << 26                        # a block has at most 2^20 lanes, of 25 bytes at most
_WAITING_BYTES = 1 << 20
_FOREVER = float("inf")


class Closed(Exception):
    """The other end is gone."""


class Late(Exception):
    """No message came in time."""


class Malformed(Exception):
    """The other end sent what no kernel sends."""


class Interrupted(Exception):
    """A watched file has something to say, or has been closed."""


class Channel:
    """One end of the socket. `watched` are file numbers whose news ends a wait."""

    def __init__(self, end: socket.socket, watched: Sequence[int] = ()):
        self._end = end
        self._watched = list(watched)
        self._waiting = bytearray()

    def post(self, message: dict[str, Any], *arrays: np.ndarray | memoryview) -> None:
        """Send a message, at the latest before the next `receive`."""
        text = json.dumps(message).encode()
        data = [array.tobytes() for array in arrays]
        self._waiting += _HEAD.pack(len(text), sum(map(len, data)))
        for part in (text, *data):
            self._waiting += part
        if len(self._waiting) > _WAITING_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send all that waits. Raises Closed."""
        out, self._waiting = self._waiting, bytearray()
        try:
            self._end.sendall(out)
        except OSError as error:
            raise Closed from error

    def receive(self, deadline: float = _FOREVER) -> tuple[dict[str, Any], bytearray]:
        """The next message: its JSON object, and its arrays as bytes.

        Raises Late at the `deadline` (of time.monotonic), Closed, Malformed or Interrupted.
        """
        if self._waiting:
            self.flush()
        text_bytes, array_bytes = _HEAD.unpack(self._exactly(_HEAD.size, deadline))
        if text_bytes > _MOST_JSON or array_bytes > _MOST_BYTES:
            raise Malformed(f"a message of {text_bytes + array_bytes:,} bytes")
        text = self._exactly(text_bytes, deadline)
        data = self._exactly(array_bytes, deadline)
        return _parsed(text), data

    def close(self) -> None:
        """Close this end."""
        self._end.close()

    def _exactly(self, count: int, deadline: float) -> bytearray:
        got = bytearray()
        while len(got) < count:
            self._wait(deadline)
            try:
                more = self._end.recv(count - len(got))
            except OSError as error:
                raise Closed from error
            if not more:
                raise Closed
            got += more
        return got

    def _wait(self, deadline: float) -> None:
        """Until something can be received."""
        left = None
        if deadline < _FOREVER:
            left = deadline - time.monotonic()
            if left <= 0:                            # also for one who never stops sending
                raise Late
        ready, _, _ = select.select([self._end, *self._watched], [], [], left)
        if not ready:
            raise Late
        if self._end not in ready:
            raise Interrupted


def _parsed(text: bytearray) -> dict[str, Any]:
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Malformed("text that is no JSON") from error
    if not isinstance(message, dict):
        raise Malformed("JSON that is no object")
    return message


def texts(message: dict[str, Any], name: str) -> list[str]:
    """A part of a message that must be a list of texts. Raises Malformed."""
    part = message.get(name)
    if isinstance(part, list) and all(type(text) is str for text in part):
        return part
    raise Malformed(f"{name} that are no texts")


def lists(message: dict[str, Any], name: str, count: int) -> list:
    """A part of a message that must be a list with `count` members. Raises Malformed."""
    part = message.get(name)
    if isinstance(part, list) and len(part) == count:
        return part
    raise Malformed(f"{name} that are not {count}")


def number(message: dict[str, Any], name: str) -> float:
    """A part of a message that must be a positive number. Raises Malformed."""
    part = message.get(name)
    if type(part) in (int, float) and 0 < part < _FOREVER:
        return float(part)
    raise Malformed(f"{name} that are no number")
