"""What one rank sends in each collective, and how long a link takes for it.

    all-reduce      2 (n-1)/n · B     2 (n-1) messages     B: the tensor, the same size on every rank
    all-gather        (n-1)/n · B        n-1               B: the whole that everybody has afterwards
    reduce-scatter    (n-1)/n · B        n-1               B: the whole that everybody had before
    all-to-all        (n-1)/n · B        n-1               B: a rank's whole input, 1/n of it for itself
    broadcast, reduce         B          1                 along a chain; its last rank sends nothing
    point to point            B          1

The first four are those of a ring, the least that any method can send. They grow with B and, past a few
ranks, hardly with n. Seconds are those of the alpha-beta model: messages · latency + bytes / bandwidth.
Thakur, Rabenseifner and Gropp 2005; Patarasuk and Yuan 2009. Notebooks 06 and 07.
"""

from dataclasses import dataclass

from aiinfra.config import config


@dataclass(frozen=True)
class Volume:
    """What one rank sends; they add up."""

    calls: int = 0
    sent_bytes: float = 0.0
    messages: float = 0.0

    def __add__(self, other: "Volume") -> "Volume":
        return Volume(
            calls=self.calls + other.calls,
            sent_bytes=self.sent_bytes + other.sent_bytes,
            messages=self.messages + other.messages)

    def __mul__(self, times: int) -> "Volume":
        return Volume(
            calls=self.calls * times,
            sent_bytes=self.sent_bytes * times,
            messages=self.messages * times)

    __rmul__ = __mul__


def all_reduce(nbytes: float, ranks: int) -> Volume:
    """Everybody's tensor of `nbytes` becomes the sum of all: a reduce-scatter, then an all-gather."""
    return _ring(nbytes, ranks, rounds=2)


def all_gather(nbytes: float, ranks: int) -> Volume:
    """Each has a part, and all get the whole, of `nbytes`."""
    return _ring(nbytes, ranks)


def reduce_scatter(nbytes: float, ranks: int) -> Volume:
    """Each has a whole of `nbytes`, and gets its part of their sum."""
    return _ring(nbytes, ranks)


def all_to_all(nbytes: float, ranks: int) -> Volume:
    """Each has `nbytes`, an equal part of them for everybody, itself included. Uneven parts: what is not for
    itself, in ranks - 1 messages."""
    return _ring(nbytes, ranks)


def point_to_point(nbytes: float) -> Volume:
    """One message to one other rank."""
    return Volume(calls=1, sent_bytes=nbytes, messages=1)


def chain(nbytes: float, is_last: bool) -> Volume:
    """One tensor goes from rank to rank, as in a broadcast, or in a reduce, where each adds its own."""
    return Volume(calls=1) if is_last else point_to_point(nbytes)


def _ring(nbytes: float, ranks: int, rounds: int = 1) -> Volume:
    steps = rounds * (ranks - 1)
    return Volume(calls=1, sent_bytes=steps * nbytes / ranks, messages=steps)


@config
class Link:
    """What joins a rank to the others: what each message costs, and what each byte."""

    latency_seconds: float
    bytes_per_second: float

    def __post_init__(self) -> None:
        if self.latency_seconds < 0 or self.bytes_per_second <= 0:
            given = f"latency_seconds={self.latency_seconds}, bytes_per_second={self.bytes_per_second}"
            raise ValueError(f"{given}; a latency is at least 0 and a bandwidth above it. For instance "
                             "Link(latency_seconds=50e-6, bytes_per_second=125e6): 1 Gbit/s.")

    def seconds(self, sent: Volume) -> float:
        """How long the link is busy with what one rank sends."""
        return sent.messages * self.latency_seconds + sent.sent_bytes / self.bytes_per_second
