"""What the judges of streaming ask about: bytes off a network, chunks and their times, queues, voices.

    0 | 0.01 0   0.5 1   0.8 3        sent at 0; a chunk with no token, one with 1, one with 3

Each kind of case is a small table, whose rows are the corners that answers stumble over; some that are drawn
follow. Used by the judges of notebook 15.
"""

import random
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

Chunks = list[tuple[float, int]]                # of an answer: when each came, and how many tokens it had

_WORDS = ("The", " sea", " was", "  two blanks", " 🌊", "波", " c:d", "", "{7}", " data: 1", "[DONE]")


class CutWire:
    """Chunks for a reader, and how many it has taken."""

    def __init__(self, chunks: Sequence[bytes]) -> None:
        self._chunks = chunks
        self.taken = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.taken += 1
            yield chunk


def cut(text: bytes, size: int) -> list[bytes]:
    """The bytes in pieces of `size`, the last one maybe shorter."""
    return [text[i:i + size] for i in range(0, len(text), size)]


def wire_cases() -> Iterator[tuple[str, bytes, list[str]]]:
    """What a case is about, its bytes, and the data of its events."""
    yield "two events", b"data: one\n\ndata: two\n\n", ["one", "two"]
    yield "an emoji", "data: 🌊 wave\n\n".encode(), ["🌊 wave"]
    yield "lines that end in \\r\\n", b"data: one\r\n\r\ndata: two\r\n\r\n", ["one", "two"]
    yield "an event of two data lines", b"data: one\ndata: two\n\n", ["one\ntwo"]
    yield "an event whose data is empty", b"data:\n\ndata: one\n\n", ["", "one"]
    yield "a comment between events", b": still here\n\ndata: one\n\n: data: no\n\n", ["one"]
    yield "other fields", b"event: delta\nid: 5\ndata: one\nretry: 10\n\n", ["one"]
    yield "blanks in the data", b"data:  two before\n\ndata:none before\n\ndata: one after \n\n", [
        " two before", "none before", "one after "]
    yield "a stream that breaks off", b"data: one\n\ndata: half an eve", ["one"]
    yield "a stream that breaks off before the empty line", b"data: one\n\ndata: two\n", ["one"]
    rng = random.Random(15)
    said = [rng.choice(_WORDS) for _ in range(60)]
    end = rng.choice(("\n", "\r\n"))
    yield "sixty events", "".join(f"data: {word}{end}{end}" for word in said).encode(), said


def _rows(table: str) -> list[list[str]]:
    """The cells of a table, which are parted by bars."""
    lines = table.strip().splitlines()
    return [[cell.strip() for cell in line.split("|")] for line in lines]


_STOPS = (
    ("The end", ("\n\n",)), ("The end\n", ("\n\n",)), ("The end\n\nUser", ("\n\n",)),
    ("a STO", ("STOP",)), ("a STOP", ("STOP",)), ("a STOPS here STOP", ("STOP",)),
    ("no, nothing", ("STOP", "ing!")), ("is it aab", ("aabb", "b")), ("aaa", ("aab",)),
    ("x###", ("####",)), ("one. two", ("two", "one")), ("ends in User", ("User:", "\nUser:")),
    ("ends in \nUser", ("er::", "\nUser:")), ("plain", ()), ("", ("x",)), ("波の", ("の波",)),
    ("abc", ("abcX", "bc")),
)


def stopped_texts() -> Iterator[tuple[str, tuple[str, ...]]]:
    """What was decoded so far, and the stop strings."""
    yield from _STOPS
    rng = random.Random(3)
    for _ in range(300):
        def word(most: int) -> str:
            return "".join(rng.choice("ab.") for _ in range(rng.randint(1, most)))
        yield word(12), tuple(word(4) for _ in range(rng.randint(1, 3)))


# When it was sent, and each chunk: when it came, and how many tokens it had.
_ANSWERS = """
    0 | 0.2 1   0.3 1   0.45 1
    1 | 1.05 0  1.5 1   1.6 1   1.6 0
    0 | 0.01 0  0.5 1   0.8 3   0.9 1   0.95 0
    2 | 2.4 2   2.4 0   2.6 2   3.0 0
    0 | 0.01 0  0.7 1   0.71 0
    5 | 5.01 0  5.02 0
    5 |
"""


def answers() -> Iterator[tuple[float, Chunks]]:
    """When each was sent, and its chunks."""
    for sent, told in _rows(_ANSWERS):
        values = told.split()
        times = map(float, values[::2])
        tokens = map(int, values[1::2])
        yield float(sent), list(zip(times, tokens))
    rng = random.Random(9)
    for _ in range(20):
        yield _drawn_answer(rng)


def _drawn_answer(rng: random.Random) -> tuple[float, Chunks]:
    sent = rng.randint(0, 5)
    clock = 1_000 * sent                                  # milliseconds
    chunks = []
    for _ in range(rng.randint(1, 6)):
        clock += rng.randint(10, 300)
        tokens = rng.choice((0, 1, 1, 2, 4))
        chunks.append((clock / 1_000, tokens))
    return sent, chunks


# Tokens of those that queue | the newcomer's | most requests | most tokens | a second are made | seconds
_QUEUES = """
                    | 50  | 4 | 500 | 100 | 0
    50 50           | 50  | 4 | 500 | 100 | 0
    50 50 50        | 50  | 4 | 500 | 100 | 0
    250 50 50 50    | 50  | 4 | 500 | 100 | 3
    50 50 50 50     | 50  | 4 | 500 | 100 | 1
    200 200         | 100 | 9 | 500 | 100 | 0
    200 200         | 101 | 9 | 500 | 100 | 2
    100 300         | 400 | 9 | 500 | 100 | 4
    30 30 30        | 10  | 2 | 500 | 100 | 1
    100 100         | 500 | 9 | 500 | 80  | 3
                    | 501 | 9 | 500 | 100 | never
    10              | 501 | 1 | 500 | 100 | never
    400             | 500 | 9 | 500 | 100 | 4
"""


class Queued(NamedTuple):
    """Who queues, who comes, what is allowed, and how long the newcomer has to wait (None: for ever)."""

    queued: list[int]
    tokens: int
    most_requests: int
    most_tokens: int
    rate: float
    seconds: int | None

    @property
    def made_until_room(self) -> int:
        """Tokens of those that have to leave before the newcomer fits."""
        made = 0
        left = list(self.queued)
        while self.overfull(left):
            made += left.pop(0)
        return made

    def overfull(self, left: list[int]) -> bool:
        """True if these and the newcomer are too many."""
        tokens = sum(left) + self.tokens
        return len(left) >= self.most_requests or tokens > self.most_tokens


def queues() -> Iterator[Queued]:
    """Queues that somebody new comes to."""
    for queued, *limits, seconds in _rows(_QUEUES):
        tokens, requests, most, rate = map(int, limits)
        yield Queued(
            queued=[int(one) for one in queued.split()],
            tokens=tokens,
            most_requests=requests,
            most_tokens=most,
            rate=float(rate),
            seconds=None if seconds == "never" else int(seconds),
        )


# Milliseconds from one request to the next | how long each answer took
_TESTERS = """
    100 | 50 60 40
    100 | 50 350 60
    100 | 300
    500 | 1000 20 2050
    10  |
"""


def testers() -> Iterator[tuple[int, list[int]]]:
    """Milliseconds from one request to the next, and how long each answer took."""
    for interval, told in _rows(_TESTERS):
        yield int(interval), [int(took) for took in told.split()]
    rng = random.Random(5)
    for _ in range(20):
        answers = rng.randint(1, 9)
        yield 100, rng.choices((20, 80, 100, 450, 990), k=answers)


# Seconds of a frame | when each frame is ready
_READY = """
    0.08 | 0.3 0.35 0.4 0.45
    0.08 | 0.3 0.5 0.7 0.9
    0.08 | 0.3 0.31 0.8 0.81 0.82
    0.08 | 0.2
    0.08 | 0.1 0.18 0.26 0.34
    0.1  | 0.5 0.5 0.5 0.5 1.2 1.2 1.2 1.2
    0.25 | 0.2 0.6 0.62 0.64 0.66
"""


def voices() -> Iterator[tuple[float, list[float]]]:
    """Seconds of a frame, and when each is ready."""
    for frame, told in _rows(_READY):
        yield float(frame), [float(at) for at in told.split()]
    rng = random.Random(12)
    for _ in range(20):
        frames = rng.randint(2, 12)
        waited = rng.choices((10, 50, 90, 300), k=frames)             # milliseconds
        yield 0.08, [at / 1_000 for at in accumulate(waited, initial=100)]
