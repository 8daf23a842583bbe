"""Many clients at once, on raw sockets: patient ones, ones that hang up at any moment, and slow readers.

    every person, again and again until the time is over:
    ask ─┬─ 429 ───────────────────────> a little later again
         ├─ 200, and patient ──────────> reads on to [DONE], or something is wrong
         └─ 200 or waits, not patient ─> hangs up after a random time, kindly or with a reset
"""

import asyncio
import json
import re
import socket
import time
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.serve.small_server import COMPLETIONS, Served, request

_PATIENCE_SECONDS = 90.0


@dataclass
class Tally:
    """What became of the requests. wrong: everything that should not have been."""

    done: int = 0
    refused: int = 0             # 429
    closed: int = 0              # 503, or nobody listens any more
    left: int = 0
    wrong: list[str] = field(default_factory=list)


class Line:
    """One request on a connection of its own."""

    def __init__(self, served: Served, body: dict[str, Any]) -> None:
        self.raw = request(COMPLETIONS, body)
        self.port = served.port
        self.status = 0
        self.heard = b""
        self.writer: asyncio.StreamWriter | None = None

    async def ask(self, small_buffer: bool = False) -> None:
        """Send it, and wait for the answer's head. Raises OSError if nobody listens."""
        line = socket.socket()
        if small_buffer:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.setblocking(False)
        await asyncio.get_running_loop().sock_connect(line, ("127.0.0.1", self.port))
        self.reader, self.writer = await asyncio.open_connection(sock=line, limit=1 << 16)
        self.writer.write(self.raw)
        head = await self.reader.readuntil(b"\r\n\r\n")
        self.status = int(head.split()[1])
        self.head = head.decode("latin-1").lower()

    async def read_all(self) -> None:
        """To the end of the connection."""
        while piece := await self.reader.read(1 << 16):
            self.heard += piece

    def hang_up(self, rudely: bool = False) -> None:
        """Kindly, or with a reset."""
        if self.writer is None:
            return
        if rudely:
            self.writer.transport.abort()
        else:
            self.writer.close()

    def fault(self, tokens: int) -> str:
        """What is wrong with a complete stream of so many tokens; "" if nothing is."""
        events = re.findall(rb"data: (.*)\r?\n", self.heard)
        if not events or events[-1].strip() != b"[DONE]":
            return f"no [DONE]: {self.heard[-300:]!r}"
        usage = json.loads(events[-2])["usage"]
        chunks = [json.loads(event) for event in events[:-2]]
        reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
        if usage["completion_tokens"] != tokens or reasons[-1] != "length" or any(reasons[:-1]):
            return f"{usage} and {reasons[-3:]} for {tokens} tokens"
        return ""


def body_of(served: Served, rng: Random, tokens: int, **more: Any) -> dict[str, Any]:
    """A streamed request for exactly so many tokens."""
    prompt = [rng.randrange(300) for _ in range(rng.randrange(1, 100))]
    return {"model": served.model, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "stream": True,
            "stream_options": {"include_usage": True}, "n": rng.choice([1, 1, 1, 2]), **more}


async def crowd(served: Served, people: int, seconds: float) -> Tally:
    """So many at once, half of them patient; all have an answer, or have left, when it returns."""
    tally = Tally()
    end = time.monotonic() + seconds
    await asyncio.gather(*(_person(served, Random(seed), end, tally) for seed in range(people)))
    return tally


async def _person(served: Served, rng: Random, end: float, tally: Tally) -> None:
    await asyncio.sleep(rng.uniform(0, 0.5))
    while time.monotonic() < end:
        patient = rng.random() < 0.5
        patience = _PATIENCE_SECONDS if patient else rng.expovariate(2)
        tokens = rng.randrange(1, 60)
        line = Line(served, body_of(served, rng, tokens, n=1))
        try:
            async with asyncio.timeout(patience):
                await line.ask()
                await line.read_all()
        except TimeoutError:
            tally.left += 1
            if patient:
                tally.wrong.append(f"no end for {patience} s: {line.status}, {line.heard[-100:]!r}")
        except (OSError, asyncio.IncompleteReadError) as error:
            tally.closed += 1
            if line.status == 200:
                tally.wrong.append(f"cut off: {error!r}, {line.heard[-100:]!r}")
        else:
            _count(line, tokens, tally)
        line.hang_up(rudely=rng.random() < 0.5)
        if line.status != 200:
            await asyncio.sleep(rng.uniform(0.05, 0.5))


def _count(line: Line, tokens: int, tally: Tally) -> None:
    if line.status == 429:
        tally.refused += 1
        if "retry-after:" not in line.head or b'"code": "queue_full"' not in line.heard:
            tally.wrong.append(f"a 429 without help: {line.head} {line.heard!r}")
    elif line.status == 503:
        tally.closed += 1
    elif line.status != 200:
        tally.wrong.append(f"{line.status}: {line.heard[:300]!r}")
    elif fault := line.fault(tokens):
        tally.wrong.append(fault)
    else:
        tally.done += 1
