"""A page to chat with, at `/`, and what it shows of the engine, at `/state`.

    browser ── GET /       ──> chat_page.html: one file, nothing is loaded from elsewhere
            ── POST /v1/chat/completions, stream ──> the answer, event by event
            ── GET /state  ──> blocks and requests, as they are between two steps

A snapshot is taken on the engine thread, so that it is of one moment: its blocks add up. All viewers share
one, which is at most FRESH_SECONDS old, so that a crowd of them costs no more than one. It holds counts and
names, and no text. Invariant: the page's script and style are known to the browser by their digests; nothing
else runs, and what a model writes is text. Notebook 15.
"""

import asyncio
import base64
import hashlib
import re
import time
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from aiinfra.engine.engine import Engine
from aiinfra.engine.request import Request
from aiinfra.serve.engine_thread import EngineThread

FRESH_SECONDS = 0.05
MOST_BLOCKS_DRAWN = 4096              # more are told by count: a map of them would cost the engine time
_PAGE = Path(__file__).with_suffix(".html")


class StateView:
    """What `/state` answers, from an engine thread that runs."""

    def __init__(self, thread: EngineThread) -> None:
        self._thread = thread
        self._engine = thread.llm.engine
        self._taken = -FRESH_SECONDS
        self._state: dict[str, Any] = {}
        self._one_at_a_time = asyncio.Lock()

    async def read(self) -> dict[str, Any]:
        """`engine_state`, and `state`: ready, draining, failed or stopped. Call it on the event loop."""
        async with self._one_at_a_time:
            if time.monotonic() - self._taken > FRESH_SECONDS:
                self._state = await self._look()
                self._taken = time.monotonic()
        return {"state": self._thread.state, **self._state}

    async def _look(self) -> dict[str, Any]:
        if self._thread.state == "stopped":
            return engine_state(self._engine)           # nobody steps it any more
        return await self._thread.between_steps(lambda: engine_state(self._engine))


def engine_state(engine: Engine) -> dict[str, Any]:
    """Blocks and requests of an engine between two steps, to be written as JSON.

    blocks: total, size (tokens), free, cached, used, and map: runs [who, blocks] in the order of numbers,
    where who is "free", "cached", "shared" or a place in `requests`; None if there are more than
    MOST_BLOCKS_DRAWN. requests: those that run, and then those that wait; answers that branched off one
    prompt stand for themselves.
    """
    pool = engine.pool
    running, waiting = engine.scheduler.running, engine.scheduler.waiting
    requests = [_told(request, "running") for request in running]
    requests += [_told(request, "waiting") for request in waiting]
    drawn = None
    if pool.total <= MOST_BLOCKS_DRAWN:
        drawn = _runs(engine)
    blocks = {
        "total": pool.total,
        "size": pool.block_size,
        "free": pool.free,
        "cached": pool.cached,
        "used": pool.used,
        "map": drawn,
    }
    return {"blocks": blocks, "running": len(running), "waiting": len(waiting), "requests": requests}


def _told(request: Request, state: str) -> dict[str, Any]:
    return {
        "name": request.id,
        "state": state,
        "tokens": len(request.tokens),
        "made": request.made,
        "blocks": len(request.blocks),
    }


def _runs(engine: Engine) -> list[list]:
    """The block map, neighbours of one owner together."""
    pool = engine.pool
    owner: list[str | int] = ["free"] * pool.total
    for block in range(pool.total):
        if pool.keeps(block):
            owner[block] = "cached"
    for place, request in enumerate(engine.scheduler.running):
        for block in request.blocks:
            owner[block] = place
            if pool.owners(block) > 1:
                owner[block] = "shared"
    return [[who, len(list(blocks))] for who, blocks in groupby(owner)]


@cache
def chat_page() -> tuple[str, dict[str, str]]:
    """The page, and the headers that go with it."""
    html = _PAGE.read_text(encoding="utf-8")
    policy = {
        "default-src": "'none'",
        "script-src": _digest("script", html),
        "style-src": _digest("style", html),
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    said = "; ".join(f"{what} {allowed}" for what, allowed in policy.items())
    return html, {
        "Content-Security-Policy": said,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }


def _digest(tag: str, html: str) -> str:
    """How the browser is told which script, or style, may be used."""
    inside = re.search(f"<{tag}[^>]*>(.*?)</{tag}>", html, re.DOTALL)
    digest = hashlib.sha256(inside[1].encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
