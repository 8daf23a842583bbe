"""An OpenAI-compatible server with known delays, which makes no tokens of its own: what a load generator says
about it can be checked.

    served(fake)             over sockets, in a thread; on a busy machine its delays are lower bounds
    FakeTransport(fake)      without a network; on a VirtualLoop its delays are exact, and take no time
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

HEAD = (b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
        b"connection: close\r\n\r\n")


@dataclass
class Fake:
    """What it does. A chunk brings `per_chunk` tokens; `places` requests are served at once, the others
    wait; from `stall_at` on (seconds after its first request) it stands still for `stall` seconds."""

    first: float = 0.0                          # seconds to the first token, and between chunks
    gap: float = 0.0
    per_chunk: int = 1
    usage: str = "continuous"                   # or "last", or "none"
    places: int = 1_000
    stall_at: float = 1e9
    stall: float = 0.0
    role_after: float | None = None             # a chunk that only names the role, so long before the first
    refuse: tuple[int, ...] = ()                # which requests get 429
    break_after: int | None = None              # tokens, then the connection is cut
    error_after: int | None = None              # tokens, then an error event
    bytes_a_write: int = 0                      # cut what is written into such pieces (0: do not)
    stale: bool = False                         # a connection stays open, and is cut when it is used again
    key: str | None = None
    text: str = " é"
    bodies: list[dict[str, Any]] = field(default_factory=list)
    most: int = 0                               # requests that it had at once
    hung_up: int = 0                            # clients that left in the middle

    def __post_init__(self) -> None:
        self.now = 0
        self.begun = None

    def reply(self, path: str, authorization: str | None, body: bytes) -> tuple[int, AsyncIterator[bytes]]:
        """The status and the pieces of the answer."""
        if self.key and authorization != f"Bearer {self.key}":
            return 401, whole({"error": {"message": "wrong key"}})
        if path == "/v1/models":
            return 200, whole({"data": [{"id": "fake"}]})
        self.bodies.append(json.loads(body))
        if len(self.bodies) - 1 in self.refuse:
            return 429, whole({"error": {"message": "the queue is full"}})
        return 200, self.stream("/chat/" in path, self.bodies[-1])

    async def stream(self, chat: bool, body: dict) -> AsyncIterator[bytes]:
        if self.begun is None:
            self.begun = asyncio.get_running_loop().time()
        if not self.now:                        # each run may have a loop of its own
            self.free = asyncio.Semaphore(self.places)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            async with self.free:
                async for content in self.events(chat, body):
                    data = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
                    sent = f"data: {data}\r\n\r\n".encode()
                    size = self.bytes_a_write or len(sent)
                    for begin in range(0, len(sent), size):
                        yield sent[begin:begin + size]
        finally:
            self.now -= 1

    async def events(self, chat: bool, body: dict) -> AsyncIterator[dict | str]:
        wanted = body.get("max_completion_tokens") or body["max_tokens"]
        if self.role_after is not None:
            await self.pause(self.role_after)
            yield self.chunk(chat, None, 0)
        made = 0
        while made < wanted:
            await self.pause(self.gap if made else self.first)
            if self.break_after is not None and made >= self.break_after:
                raise ConnectionResetError
            if self.error_after is not None and made >= self.error_after:
                yield {"error": {"message": "the step failed"}}
                return
            count = min(self.per_chunk, wanted - made)
            made += count
            yield self.chunk(chat, self.text * count, made)
        ended = self.chunk(chat, "", made)
        ended["choices"][0]["finish_reason"] = "length"
        yield ended
        if self.usage != "none":
            yield {"choices": [], "usage": self.used(made)}
        yield "[DONE]"

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        since = asyncio.get_running_loop().time() - self.begun
        if self.stall_at <= since < self.stall_at + self.stall:
            await asyncio.sleep(self.stall_at + self.stall - since)

    def used(self, made: int) -> dict[str, Any]:
        return {"prompt_tokens": 7, "completion_tokens": made, "prompt_tokens_details": {"cached_tokens": 3}}

    def chunk(self, chat: bool, text: str | None, made: int) -> dict[str, Any]:
        choice = {"index": 0, "finish_reason": None}
        if chat:
            choice["delta"] = {"role": "assistant", "content": ""} if text is None else {"content": text}
        else:
            choice["text"] = text or ""
        return {"choices": [choice], "usage": self.used(made) if self.usage == "continuous" else None}


async def whole(content: object) -> AsyncIterator[bytes]:
    yield json.dumps(content).encode()


# Without a network, on a clock that nobody waits for

class FakeTransport(httpx.AsyncBaseTransport):
    """Hands requests to a Fake."""

    def __init__(self, fake: Fake) -> None:
        self.fake = fake

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        key = request.headers.get("authorization")
        status, pieces = self.fake.reply(request.url.path, key, request.content)
        return httpx.Response(status, stream=Pieces(pieces))


class Pieces(httpx.AsyncByteStream):
    """What a transport reads."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self.pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self.pieces:
                yield piece
        except ConnectionResetError as error:
            raise httpx.RemoteProtocolError("cut") from error

    async def aclose(self) -> None:
        await self.pieces.aclose()


class VirtualLoop(asyncio.SelectorEventLoop):
    """Whoever sleeps is woken at once, and time has passed."""

    def __init__(self) -> None:
        self.virtual = 0.0
        super().__init__()

    def time(self) -> float:
        return self.virtual

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            self.virtual = max(self.virtual, self._scheduled[0]._when)
        super()._run_once()


def run_virtually(work: Coroutine) -> Any:
    """As asyncio.run, on a VirtualLoop."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


# Over sockets

async def serve_socket(fake: Fake, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        status, pieces = fake.reply(first.split()[1], headers.get("authorization"), body)
        sent = HEAD.replace(b"close", b"keep-alive") if fake.stale else HEAD
        writer.write(sent.replace(b"200 OK", b"%d X" % status))
        async for piece in pieces:
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        if fake.stale and await reader.read(1):
            writer.transport.abort()
    except (ConnectionError, asyncio.IncompleteReadError):
        fake.hung_up += 1
        writer.transport.abort()
    except asyncio.CancelledError:            # the test is over
        pass
    finally:
        writer.close()


@contextmanager
def served(fake: Fake) -> Iterator[str]:
    """The address of `fake`, which runs in a thread of its own meanwhile."""
    ready, loop = threading.Event(), asyncio.new_event_loop()
    ports: list[int] = []

    async def run() -> None:
        def speak(*pair: object) -> Coroutine:
            return serve_socket(fake, *pair)
        server = await asyncio.start_server(speak, "127.0.0.1", 0, backlog=1024)
        ports.append(server.sockets[0].getsockname()[1])
        ready.set()

    async def leave() -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def work() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(run())
        loop.run_forever()
        loop.run_until_complete(leave())
        loop.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield f"http://127.0.0.1:{ports[0]}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
