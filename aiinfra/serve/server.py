"""uvicorn around the app, and how it ends: the first signal drains, the second ends at once.

    SIGTERM ─> /ready 503 ─> new requests 503 ─> what was accepted is finished ─> sockets close ─> exit 0
    again   ─> exit 128 + signal, whatever is left

uvicorn's own way closes the door first: then nobody hears that he should ask elsewhere. Notebook 15.
"""

import asyncio
import errno
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from aiinfra.errors import plural
from aiinfra.serve.engine_thread import EngineThread
from aiinfra.serve.ranks import RankedLLM

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LAST_BYTES_SECONDS = 30                     # for clients that read slowly, once all is computed
_SHOWN_SECONDS = 1.0              # a replica that has lost a rank shows it at /health, then ends


class HttpServer(uvicorn.Server):
    """Serves `app` until a signal, and says `ready` when it does. drain_seconds: it goes on refusing for at
    least so long, so that routers notice."""

    def __init__(self, app: FastAPI, engine_thread: EngineThread, ready: str,
                 drain_seconds: float = 0.0) -> None:
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=_LAST_BYTES_SECONDS,
            server_header=False,
        )
        super().__init__(config)
        self.engine_thread = engine_thread
        self.ready = ready
        self.drain_seconds = drain_seconds
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        print(self.ready, flush=True)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: end if a rank is lost."""
        llm = self.engine_thread.llm
        if isinstance(llm, RankedLLM) and not llm.health.alive and self.engine_thread.state != "failed":
            self.engine_thread.fail(llm.health.said)
            self._draining = asyncio.create_task(self._end_soon())
        return await super().on_tick(counter)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """In place of uvicorn's."""
        loop = asyncio.get_running_loop()
        signalled = False                    # two may come before the loop has heard of the first

        def on_signal(number: int, _: FrameType | None) -> None:
            nonlocal signalled
            if signalled or self._draining is not None or loop.is_closed():
                _end_at_once(number)
            signalled = True
            loop.call_soon_threadsafe(self._drain)
        before = {number: signal.signal(number, on_signal) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _drain(self) -> None:
        self.engine_thread.drain()
        self._draining = asyncio.create_task(self._finish())

    async def _finish(self) -> None:
        left = plural(len(self.engine_thread.open), "request")
        print(f"shutting down: {left} to finish first; a second signal ends at once", file=sys.stderr,
              flush=True)
        await asyncio.sleep(self.drain_seconds)
        await self.engine_thread.until_drained()
        self.should_exit = True

    async def _end_soon(self) -> None:
        await asyncio.sleep(_SHOWN_SECONDS)
        self.should_exit = True


def serve_until_signal(server: HttpServer, listener: socket.socket) -> None:
    """Run the server and its engine thread, on the main thread; both have ended when it returns."""
    server.engine_thread.start()
    try:
        server.run(sockets=[listener])
    finally:
        server.engine_thread.stop()


def bind(host: str, port: int) -> socket.socket:
    """A socket that holds this address, and does not listen yet. Raises OSError, saying what to do, if it
    cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            raise OSError(f"port {port} of {host} is in use by another program: choose another --port, or 0 "
                          "for one that is free.") from error
        raise OSError(f"cannot listen at {host}, port {port}: {error.strerror}.") from error
    return found


def check_address(host: str, api_key: str | None) -> None:
    """Raise ValueError for an address that others can reach, without a key."""
    if api_key is None and not _is_loopback(host):
        raise ValueError(f"host {host} can be reached by others: set --api-key or AIINFRA_API_KEY, "
                         "or leave --host at 127.0.0.1.")
    if api_key is not None and not (api_key.isascii() and api_key.isprintable() and len(api_key) >= 8):
        raise ValueError("the API key must be at least 8 printable ASCII characters.")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _end_at_once(number: int) -> None:
    print("ended at once: what was not finished is lost", file=sys.stderr, flush=True)
    os._exit(128 + number)
