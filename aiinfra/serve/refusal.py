"""What is not done, and why: one exception, in the form that OpenAI's clients turn into typed errors.

    raise Refusal(429, "…", retry_after=1)  ──>  HTTP 429, Retry-After: 1
                                                 {"error": {"message", "type", "param", "code"}}

A message has the value, the limit and the remedy. What a client sent is quoted short and in ASCII, so that
it can break neither a log nor the JSON around it.
"""

import json
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

_TYPES = {401: "authentication_error", 429: "rate_limit_error"}
_LONGEST_QUOTE = 80
_SHORT = {404: "there is nothing here", 405: "this address does not take that method"}


class ErrorObject(BaseModel):
    """OpenAI's, as the server's description of itself has it."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """Around it."""

    error: ErrorObject


@dataclass
class Refusal(Exception):
    """Why a request is not answered. param: the field that is wrong. retry_after: in seconds, where trying
    again will help."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    retry_after: int | None = None

    def __str__(self) -> str:
        return self.message

    @property
    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {
            "message": self.message,
            "type": _TYPES.get(self.status, kind),
            "param": self.param,
            "code": self.code,
        }}

    @property
    def response(self) -> Response:
        """The same as an HTTP answer."""
        headers = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.status == 408:
            headers["Connection"] = "close"          # what is left of the body is not waited for
        content = json.dumps(self.body)              # ASCII: half a surrogate cannot break it
        return Response(content, self.status, headers, media_type="application/json")


def quote(value: Any) -> str:
    """A value of a stranger, for a message: ASCII, and not long."""
    return cut(ascii(value))


def cut(text: str) -> str:
    """A stranger's text, cut so that it leaves room for ours."""
    if len(text) > _LONGEST_QUOTE:
        text = text[:_LONGEST_QUOTE] + "…"
    return text


class RefusedWhileReading(HTTPException):
    """A Refusal of a body that is being read: FastAPI lets no other kind of exception through there."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.status, refusal.message)
        self.refusal = refusal


async def on_refusal(_: Request, refusal: Refusal) -> Response:
    """What FastAPI does with a Refusal."""
    return refusal.response


async def on_http_error(request: Request, error: HTTPException) -> Response:
    """What FastAPI itself refuses: an address that does not exist, a method, a body that is not JSON. Or what
    was refused while it was reading."""
    if isinstance(error, RefusedWhileReading):
        return error.refusal.response
    said = _SHORT.get(error.status_code, str(error.detail))
    message = f"{request.method} {quote(request.url.path)}: {said}."
    response = Refusal(error.status_code, message).response
    response.headers.update(error.headers or {})
    return response


async def on_crash(request: Request, error: Exception) -> Response:
    """A fault of ours: the client is told so, and no more; the log has the traceback."""
    return Refusal(500, "the server failed at this request; its log says how.").response
