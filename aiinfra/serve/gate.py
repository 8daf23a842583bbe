"""Before a route sees a request: its key, its id, the size of its body, and how long that takes to come.

Works on the bytes of the headers and counts the body as it comes in, so that nothing large is read, or
parsed, for somebody who may not ask; and a body that never arrives holds a connection for no longer than
`body_seconds`. A request id goes back in the answer's headers: only one that cannot
break a line or a log is taken.
"""

import asyncio
import hmac
import re
from uuid import uuid4

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aiinfra.serve.refusal import Refusal, RefusedWhileReading

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_DIGITS = 18                                             # of a length; more would be too many anyway
_OPEN = ("/", "/health", "/ready", "/metrics")           # need no key: they say nothing of anybody's request


class Gate:
    """Middleware. api_key: None lets everybody in."""

    def __init__(self, app: ASGIApp, api_key: str | None, max_body_bytes: int, body_seconds: float) -> None:
        self.app = app
        self.api_key = api_key
        self.max_body_bytes = max_body_bytes
        self.body_seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI wants it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request_id = headers.get(b"x-request-id", uuid4().hex.encode())
        try:
            self._check_id(request_id)
            self._check_key(scope["path"], headers.get(b"authorization", b""))
            self._check_length(headers.get(b"content-length", b"0"))
        except Refusal as refusal:
            await refusal.response(scope, receive, send)
            return
        try:
            await self.app(scope, self._body(receive), _with_id(send, request_id))
        except asyncio.CancelledError:               # a shutdown waits no longer for who is left: no fault
            return

    def _check_id(self, request_id: bytes) -> None:
        if not _REQUEST_ID.fullmatch(request_id):
            raise Refusal(400, "X-Request-Id may have letters, digits and . _ : - only, and at most 128 of "
                               "them. Leave it out, and one is chosen.", param="X-Request-Id")

    def _check_key(self, path: str, given: bytes) -> None:
        if self.api_key is None or path in _OPEN:
            return
        expected = f"Bearer {self.api_key}".encode()
        if not hmac.compare_digest(given, expected):     # as long for any wrong letter
            raise Refusal(401, "the API key is missing or wrong: send it as Authorization: Bearer KEY.",
                          code="invalid_api_key")

    def _check_length(self, length: bytes) -> None:
        size = int(length[:_DIGITS]) if length.isdigit() else 0
        if size > self.max_body_bytes:
            raise self._too_large(f"{size:,}")

    def _too_large(self, size: str) -> Refusal:
        message = f"the body has {size} bytes; this server takes {self.max_body_bytes:,}. Shorten it."
        return Refusal(413, message, code="body_too_large")

    def _too_late(self, read: int) -> Refusal:
        message = (f"{read:,} bytes of the body have come in {self.body_seconds:g} s, and not its end; this "
                   "server waits no longer. Send it again.")
        return Refusal(408, message, code="body_timeout")

    def _body(self, receive: Receive) -> Receive:
        """`receive`, which counts bytes and seconds until the body is whole."""
        read, whole = 0, False
        deadline = asyncio.get_running_loop().time() + self.body_seconds

        async def counting() -> Message:
            nonlocal read, whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError as error:
                raise RefusedWhileReading(self._too_late(read)) from error
            read += len(message.get("body", b""))
            if read > self.max_body_bytes:               # its length was not given, or not true
                raise RefusedWhileReading(self._too_large("more than the limit of"))
            whole = not message.get("more_body", False)
            return message
        return counting


def _with_id(send: Send, request_id: bytes) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
        await send(message)
    return sending
