"""A server known by its address: any that speaks OpenAI's wire, asked over HTTP, heard token by token.

    TraceRequest ──POST …/completions, stream──► bytes, read at a time of our clock ──► HttpServed

The same requests as `load.replay` serves in one process, and answers of the same kind: prompts are token ids
(or as many words, for chats and for routers, which read text), each asks for exactly `output_tokens`, and
times count from when a request *should* have been sent. Each has a connection of its own, as users have who
do not know each other. A request that failed has a reason and is in no percentile: it is never a zero there.
Notebook 15.
"""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import httpx

from aiinfra.bench.events import Heard, error_text
from aiinfra.bench.load import Served
from aiinfra.bench.trace import TraceRequest

ASKED = ("ids", "words", "chat")            # completions of token ids, completions of words, chats
Clock = Callable[[], float]                 # seconds since the start of the trace
_CONNECT_SECONDS = 10.0
_WORDS = ("the sea is a wide and old road to far lands where rain falls on stone houses by night while "
          "people sleep under tall trees that grow for many years in peace").split()


@dataclass(frozen=True)
class HttpServed(Served):
    """As `Served`, over HTTP: `tokens` is empty if the server sends no ids, and `at_seconds` of a request
    that was not answered to its end may be, too."""

    sent_seconds: float = math.nan          # when it was really sent: later than its arrival, if we were busy
    failure: str = ""                       # why it has no whole answer; "" if it has one
    hung_up: bool = False                   # we did not wait for it, on purpose
    counted: bool = True                    # False: it is not known which chunk held which tokens
    prompt_tokens: int = 0                  # as the server counted them
    cached_tokens: int = 0                  # of these, found in its cache
    text: str = ""

    @property
    def answered(self) -> bool:
        """True if it has its whole answer, of at least one token."""
        return not self.failure and not self.hung_up


class Endpoint:
    """An OpenAI-compatible address; `async with` opens it.

    url: with or without /v1. model: None asks the server for its first. key: an API key. asked: one of
    ASKED. plain: send OpenAI's own fields alone, so no `ignore_eos`, and an answer may end before
    `output_tokens`. timeout: seconds until a request counts as failed. transport: httpx's, for tests. Raises
    ValueError for an address that is none.
    """

    def __init__(self, url: str, model: str | None = None, key: str | None = None, *, asked: str = "ids",
                 plain: bool = False, timeout: float = 600.0,
                 transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.url = _base(url)
        self.model = model
        self.asked = asked
        self.plain = plain
        self.timeout = timeout
        # No limit: requests that wait in here for a connection would have been sent late.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        # A server that gives up an idle connection, as after a standstill, loses what was just sent over it.
        self._headers = {"Connection": "close"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._options = {"limits": limits, "transport": transport, "trust_env": False}

    async def __aenter__(self) -> Self:
        """Raises ConnectionError if nobody answers there, or no model is served."""
        patience = httpx.Timeout(None, connect=_CONNECT_SECONDS)
        self._client = httpx.AsyncClient(headers=self._headers, timeout=patience, **self._options)
        try:
            self.model = self.model or await self._first_model()
        except BaseException:
            await self._client.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def _first_model(self) -> str:
        try:
            answer = await self._client.get(f"{self.url}/models", timeout=_CONNECT_SECONDS)
        except httpx.HTTPError as error:
            raise ConnectionError(f"nobody answers at {self.url} ({_why(error)}). Is it running? For "
                                  "instance: python -m aiinfra serve") from error
        if answer.status_code != 200:
            raise ConnectionError(f"{self.url}/models says {_refusal(answer)}.")
        try:
            return answer.json()["data"][0]["id"]
        except (ValueError, LookupError, TypeError) as error:
            raise ConnectionError(f"{self.url}/models lists no model: name one with --model.") from error

    async def ask(self, request: TraceRequest, clock: Clock, patience: float | None = None) -> HttpServed:
        """Send a request now, and hear it to its end. patience: hang up after so many seconds."""
        heard = Heard()
        sent = clock()
        failure, hung_up = "", False
        limit = self.timeout if patience is None else min(patience, self.timeout)
        try:
            async with asyncio.timeout(limit):
                failure = await self._listen(request, heard, clock)
        except TimeoutError:
            hung_up = limit == patience
            failure = "" if hung_up else f"no end after {limit:g} s"
        except (httpx.HTTPError, httpx.StreamError, ValueError) as error:
            failure = _why(error)
        heard.close()
        return _served(request, heard, sent, failure, hung_up)

    async def _listen(self, request: TraceRequest, heard: Heard, clock: Clock) -> str:
        """Fill `heard`; returns why it is not a whole answer, or ""."""
        path, body = self._question(request)
        async with self._client.stream("POST", f"{self.url}/{path}", json=body) as response:
            if response.status_code != 200:
                await response.aread()
                return _refusal(response)
            async for read in response.aiter_bytes():
                heard.feed(read, clock())
        if heard.error:
            return f"error in the stream: {heard.error}"
        if not heard.done:
            return "the stream broke off"
        return "" if heard.at_seconds else "no token"

    def _question(self, request: TraceRequest) -> tuple[str, dict[str, Any]]:
        """The path and the body that ask for it."""
        tokens = request.output_tokens
        body = {"model": self.model, "stream": True, "temperature": 0,
                "stream_options": {"include_usage": True}}
        if not self.plain:                  # beyond OpenAI's wire, as vLLM, SGLang and we have it
            body["ignore_eos"] = True
            body["stream_options"]["continuous_usage_stats"] = True
        said = " ".join(_WORDS[token % len(_WORDS)] for token in request.prompt)
        if self.asked != "chat":
            prompt = request.prompt if self.asked == "ids" else said
            return "completions", body | {"prompt": prompt, "max_tokens": tokens}
        message = {"role": "user", "content": said}
        return "chat/completions", body | {"messages": [message], "max_completion_tokens": tokens}


def _base(url: str) -> str:
    if not _is_address(url):
        raise ValueError(f"{url!r} is not an address; write http://HOST:PORT.")
    base = url.rstrip("/")
    return base if base.endswith("/v1") else f"{base}/v1"


def _is_address(url: str) -> bool:
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:                     # a port that is none, a bracket too many
        return False
    port_is_one = parts.port is None or 0 < parts.port < 1 << 16
    return parts.scheme in ("http", "https") and bool(parts.host) and port_is_one


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _refusal(response: httpx.Response) -> str:
    try:
        said = error_text(response.json())
    except ValueError:
        said = error_text(response.text)
    return f"{response.status_code} {said}".rstrip()


def _served(request: TraceRequest, heard: Heard, sent: float, failure: str, hung_up: bool) -> HttpServed:
    details = heard.usage.get("prompt_tokens_details") or {}
    return HttpServed(
        arrival_seconds=request.arrival_seconds,
        tokens=heard.token_ids,
        at_seconds=heard.at_seconds,
        sent_seconds=sent,
        failure=failure,
        hung_up=hung_up,
        counted=heard.counted,
        prompt_tokens=heard.usage.get("prompt_tokens") or 0,
        cached_tokens=details.get("cached_tokens") or 0,
        text=heard.text,
    )
