"""From a ticket to bytes on the wire, whole or as a stream of events; and who may end it early.

    data: {…"delta": {"content": " Paris"}…}          an event a step, however many tokens came meanwhile
    data: {…"finish_reason": "stop"…}
    data: [DONE]                                      only if all is well: an error is an event, and the end

A client that hangs up is heard of by nobody who does not listen: a framework tells it to a stream that
writes, and not to one that waits in the queue, nor to an answer that is not streamed. So every ticket has
a `Watch` that listens, and drops it. Notebook 15.
"""

import asyncio
from collections.abc import AsyncIterator

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from aiinfra.engine.sampler import NOT_FINITE
from aiinfra.serve.refusal import Refusal
from aiinfra.serve.ticket import Dropped, Growth, Ticket
from aiinfra.serve.wire import HttpAnswer, Json

_DONE = b"data: [DONE]\n\n"
_GONE = 499                                       # nginx's word for it; nobody is there to read it
_LINGER_SECONDS = 30.0                            # after the deadline, for a reader who is slow


class Watch:
    """Drops a ticket when its client hangs up, and when its time is over; until `stop`."""

    def __init__(self, ticket: Ticket, receive: Receive, seconds: float) -> None:
        late = Refusal(504, f"the answer took longer than {seconds:g} s, this server's limit. Ask for fewer "
                            "tokens, or try again when it is less busy.", code="deadline_exceeded")
        self.ticket = ticket
        self.receive = receive
        self.seconds = seconds
        self._timer = ticket.loop.call_later(seconds, ticket.drop, late)
        self._listener = asyncio.create_task(self._listen())

    def stop(self) -> None:
        """All is said."""
        self._timer.cancel()
        self._listener.cancel()
        self.ticket.drop()

    async def _listen(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.ticket.drop()


async def reply(answer: HttpAnswer, request: Request, seconds: float) -> Response:
    """The answer to a request. Raises Refusal if the engine will not have it, or fails."""
    watch = Watch(answer.ticket, request.receive, seconds)
    try:
        await answer.ticket.until_accepted()
        if answer.ticket.streams:
            return EventStream(answer, watch)
        found = await _whole(answer)
    except Dropped:
        found = Response(status_code=_GONE)
    except BaseException:
        watch.stop()
        raise
    watch.stop()
    return found


async def _whole(answer: HttpAnswer) -> Response:
    newest: dict[int, Growth] = {}
    async for grown in answer.ticket:
        for growth in grown:
            _check_numbers(growth)
            newest[growth.index] = growth
    content = to_json(answer.whole(list(newest.values())))
    return Response(content, media_type="application/json")


class EventStream(Response):
    """Server-sent events, as a ticket's answers grow."""

    media_type = "text/event-stream"

    def __init__(self, answer: HttpAnswer, watch: Watch) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["Content-Length"]
        self.answer = answer
        self.watch = watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI wants it."""
        try:
            async with asyncio.timeout(self.watch.seconds + _LINGER_SECONDS):
                await self._send_all(send)
        except TimeoutError:                      # he does not read: the connection closes, that is all
            return
        finally:
            self.watch.stop()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for piece in self._events():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(self) -> AsyncIterator[bytes]:
        try:
            async for events in self._pieces():
                yield events
        except Refusal as refusal:                # the status has been sent: an event tells
            yield _event(refusal.body)
        except Dropped:
            return

    async def _pieces(self) -> AsyncIterator[bytes]:
        answer = self.answer
        for chunk in answer.opening():
            yield _event(chunk)
        async for grown in answer.ticket:
            events = b""
            for growth in grown:
                _check_numbers(growth)
                chunk = answer.piece(growth)
                if chunk is not None:
                    events += _event(chunk)
            if events:
                yield events
        if answer.include_usage:
            yield _event(answer.last())
        yield _DONE


def _check_numbers(growth: Growth) -> None:
    if growth.finish_reason == "error":
        raise Refusal(500, NOT_FINITE, code="not_finite")


def _event(value: Json) -> bytes:
    return b"data: " + to_json(value) + b"\n\n"
