"""The one thread that steps the engine, and its letter box.

    event loop     submit(prompts, params) ─> Ticket          drop()
                        │ letter: add                           │ letter: abort
    engine thread   ────▼───── step ───── step ───── step ──────▼──── step ─ ─ ─ ─
                                 └─ Growths, one call back to the loop a step

An engine is no place for two threads. So whoever wants something of it writes a letter, which is a function;
letters are opened between steps, all that have come. Invariant: a request whose ticket was dropped holds no
block after the next step has begun. Notebook 15.
"""

import asyncio
import threading
import traceback
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, Literal, NamedTuple, TypeVar

from aiinfra.engine.llm import LLM
from aiinfra.engine.output import RequestOutput
from aiinfra.engine.record import StepRecord
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.serve.admission import Place
from aiinfra.serve.refusal import Refusal
from aiinfra.serve.ticket import Growth, Ticket

State = Literal["ready", "draining", "failed", "stopped"]
Letter = Callable[[], None]
_T = TypeVar("_T")
_AGAIN_SECONDS = 5
_LOOK_SECONDS = 0.02
_STEP_SECONDS = 5.0                                # no step takes so long; one that has lost a rank may hang


def made_aside(make: Callable[[], _T]) -> _T:
    """What `make` returns or raises, called in a thread that is gone afterwards.

    OpenMP keeps workers for each thread that has ever computed. With more of them than cores it lets all of
    them sleep between two operations: on a CPU, an engine thread was slower by a third only because the main
    thread had loaded the model.
    """
    made: Future[_T] = Future()
    thread = threading.Thread(target=_answer, args=(make, made), name="aside", daemon=True)
    thread.start()
    thread.join()
    return made.result()


class _Seat(NamedTuple):
    """Where a request of the engine belongs."""

    ticket: Ticket
    number: int                                    # of the request in its ticket


class _News(NamedTuple):
    """What a step has brought to a ticket."""

    begun: list[int]                               # its requests that the engine has begun with
    grown: dict[int, Growth]

    @classmethod
    def none(cls) -> "_News":
        """So far."""
        return cls(begun=[], grown={})


class EngineThread:
    """Steps `llm`'s engine while there is work, and sleeps otherwise. From `start` to `stop` nobody else may
    use that LLM.

    on_submit: called with every new ticket, on the event loop. on_step: with every StepRecord, on the engine
    thread, between steps; on_end: with every ticket that has ended or was dropped, there too. Both may read
    the engine, which is `llm.engine`.
    """

    def __init__(self, llm: LLM) -> None:
        self.llm = llm
        self.state: State = "ready"
        self.said = ""                             # why it failed
        self.on_submit: list[Callable[[Ticket], None]] = []
        self.on_step: list[Callable[[StepRecord], None]] = []
        self.on_end: list[Callable[[Ticket], None]] = []
        self.open: set[Ticket] = set()             # tickets that have not ended, as the event loop knows it
        self._seats: dict[str, _Seat] = {}         # by the engine's name of the request
        self._sent = self._added = 0               # requests, by the event loop and by the engine thread
        self._letters: SimpleQueue[Letter] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> "EngineThread":
        """Begin to step."""
        self._thread.start()
        return self

    @property
    def context(self) -> int:
        """Tokens that a prompt and its answer may have together: of the model, or of a smaller cache."""
        engine = self.llm.engine
        return min(engine.max_model_len, engine.pool.total * engine.pool.block_size)

    @property
    def waiting(self) -> int:
        """Requests that have not begun: in the letter box, and in the scheduler's queue."""
        return self._sent - self._added + len(self.llm.engine.scheduler.waiting)

    @property
    def running(self) -> int:
        """Answers that the scheduler runs side by side."""
        return len(self.llm.engine.scheduler.running)

    def check_open(self) -> None:
        """Raise Refusal unless requests are taken."""
        if self.state == "failed":
            raise Refusal(503, f"the engine has failed: {self.said}", code="engine_failed")
        if self.state != "ready":
            raise Refusal(503, "this server is shutting down: ask another, or again when it is back.",
                          code="draining", retry_after=_AGAIN_SECONDS)

    def submit(self, requests: list[RequestOutput], params: SamplingParams, places: Sequence[Place] = (),
               streams: bool = True) -> Ticket:
        """Have `requests`, which `llm.texts.request` has made, answered. Call it on an event loop. places:
        of each in the queue, which they leave when the engine begins with them. streams: hear of every step,
        and not only of complete answers. Raises Refusal if no requests are taken."""
        self.check_open()
        ticket = Ticket(requests, params, places, streams=streams, drop=self._drop)
        self.open.add(ticket)
        for listener in self.on_submit:
            listener(ticket)
        self._sent += len(requests)
        self._letters.put(partial(self._add, ticket))
        return ticket

    async def between_steps(self, function: Callable[[], Any]) -> Any:
        """What `function` returns, called on the engine thread between two steps: it may read the engine."""
        found: Future[Any] = Future()
        self._letters.put(partial(_answer, function, found))
        return await asyncio.wrap_future(found)

    def drain(self) -> None:
        """Take no more; what was taken is finished."""
        if self.state == "ready":
            self.state = "draining"

    async def until_drained(self) -> None:
        """Wait until nothing is left to be answered."""
        while self.open:
            await asyncio.sleep(_LOOK_SECONDS)

    def stop(self) -> None:
        """End the thread after its current step, and take out what is left."""
        self.state = "stopped"
        self._letters.put(lambda: None)            # wakes it
        if self._thread.is_alive():
            self._thread.join(_STEP_SECONDS)

    def fail(self, said: str) -> None:
        """The engine is no good any more, for a reason that was found outside of it."""
        self.state = "failed"
        self.said = said
        self._letters.put(partial(self._fail, said))

    # What follows runs on the engine thread.

    def _run(self) -> None:
        while self.state != "stopped":
            try:
                self._open_letters()
                if self._seats:
                    self._hand_over(self.llm.texts.step())
            except Exception as error:             # whatever it is, those who wait must hear of it
                traceback.print_exc()
                self._fail(f"{type(error).__name__}: {error}")
        while not self._letters.empty():
            self._letters.get()()
        self._let_all_go(Refusal(503, "the server was stopped.", code="stopped"))

    def _open_letters(self) -> None:
        """All that have come; if there is nothing else to do, wait for one."""
        if not self._seats:
            self._letters.get()()
        while not self._letters.empty():
            self._letters.get()()

    def _add(self, ticket: Ticket) -> None:
        self._added += len(ticket.requests)
        try:
            if self.state in ("failed", "stopped"):
                self.check_open()
            for number, request in enumerate(ticket.requests):
                params = ticket.params.within(self.context - len(request.prompt_token_ids))
                self._seats[request.request_id] = _Seat(ticket, number)
                self.llm.texts.add(request, params)
        except ValueError as error:
            self._let_go(ticket, Refusal(400, str(error)))
        except Refusal as refusal:
            self._let_go(ticket, refusal)
        else:
            _call(ticket.loop, ticket.accept)

    def _drop(self, ticket: Ticket) -> None:
        """From the event loop: nobody waits any more."""
        self.open.discard(ticket)
        self._letters.put(partial(self._let_go, ticket))

    def _hand_over(self, record: StepRecord) -> None:
        """Tell everybody whose answers have grown, with one call for each event loop."""
        for listener in self.on_step:
            listener(record)
        news = self._news_of(record)
        for ticket in news:
            if all(request.finished for request in ticket.requests):
                self._let_go(ticket)
        for loop in {ticket.loop for ticket in news}:
            mine = {ticket: brought for ticket, brought in news.items() if ticket.loop is loop}
            _call(loop, partial(self._deliver, mine))

    def _news_of(self, record: StepRecord) -> dict[Ticket, _News]:
        news: dict[Ticket, _News] = defaultdict(_News.none)
        for name in record.admitted:
            if seat := self._seats.get(name):
                news[seat.ticket].begun.append(seat.number)
        for made in record.made:
            if seat := self._seats.get(made.request_id):
                growth = _growth_of(seat, made.index)
                if seat.ticket.streams or growth.finish_reason:
                    news[seat.ticket].grown[growth.index] = growth
        return news

    def _let_go(self, ticket: Ticket, error: Refusal | None = None) -> None:
        """Take what is left of a ticket out of the engine: it is complete, nobody waits, or it has failed."""
        if ticket.over:
            return
        ticket.over = True
        for request in ticket.requests:
            self._seats.pop(request.request_id, None)
        if error is not None:
            _call(ticket.loop, partial(self._deliver_failure, ticket, error))
        for request in ticket.requests:
            self.llm.texts.drop(request)
        for listener in self.on_end:
            listener(ticket)

    def _let_all_go(self, error: Refusal) -> None:
        for ticket in {seat.ticket for seat in self._seats.values()}:
            with suppress(Exception):              # an engine that has failed may fail at this, too
                self._let_go(ticket, error)

    def _fail(self, said: str) -> None:
        if self.state != "stopped":
            self.state = "failed"
        self.said = said
        self._let_all_go(Refusal(500, f"the engine failed at a step: {said}", code="engine_failed"))

    # And this on the event loop.

    def _deliver(self, news: dict[Ticket, _News]) -> None:
        for ticket, brought in news.items():
            for request in brought.begun:
                ticket.begin(request)
            ticket.take(list(brought.grown.values()))
            if ticket.ended:
                self.open.discard(ticket)

    def _deliver_failure(self, ticket: Ticket, error: Refusal) -> None:
        ticket.fail(error)
        self.open.discard(ticket)


def _growth_of(seat: _Seat, index: int) -> Growth:
    out = seat.ticket.requests[seat.number].outputs[index]
    return Growth(
        index=seat.number * seat.ticket.params.n + index,
        text=out.text,
        tokens=len(out.token_ids),
        finish_reason=out.finish_reason,
        stop_reason=out.stop_reason,
        out=out,
    )


def _answer(function: Callable[[], Any], found: Future[Any]) -> None:
    if not found.set_running_or_notify_cancel():
        return                                     # who asked has gone
    try:
        found.set_result(function())
    except Exception as error:                     # whoever asked has it, not this thread
        found.set_exception(error)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    with suppress(RuntimeError):                   # the loop is closed: nobody waits there any more
        loop.call_soon_threadsafe(function)
