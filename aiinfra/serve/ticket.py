"""A request's ticket: what the engine thread hands over to whoever waits on the event loop.

    engine thread   step ─> Growth, Growth, …  ──one call a step, for all tickets──> event loop
    event loop      async for grown in ticket:  …       the newest Growth of each answer, however many came

A slow reader finds the newest state when it comes back, not a queue of old ones: memory is bounded by the
answer itself. Everything here but `requests` belongs to the event loop. Notebook 15.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

from aiinfra.engine.output import CompletionOutput, RequestOutput
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.serve.admission import Place


class Growth(NamedTuple):
    """How far an answer has come. Its lists only grow, so that `tokens` of them may be read while it goes
    on."""

    index: int                        # among all answers of the ticket: of the first prompt, the second, …
    text: str
    tokens: int
    finish_reason: str | None
    stop_reason: int | str | None
    out: CompletionOutput             # whose token_ids and logprobs these are


class Dropped(Exception):
    """The client hung up."""


class Ticket:
    """For one or several prompts with the same settings. Iterate over it; `drop` it when nobody waits."""

    def __init__(self, requests: list[RequestOutput], params: SamplingParams, places: Sequence[Place] = (), *,
                 streams: bool, drop: Callable[["Ticket"], None]) -> None:
        """places: in the queue, one a request; none where nobody counts. streams: False hears only of answers
        that are complete. drop: tells the engine thread."""
        self.requests = requests
        self.places = places
        self.params = params
        self.streams = streams
        self.arrived = time.perf_counter()
        self.loop = asyncio.get_running_loop()
        self.accepted = False                         # the engine has it
        self.over = False                             # and has let it go again, as only its thread knows
        self._growing = set(range(params.n * len(requests)))     # answers that have no end yet
        self.error: Exception | None = None
        self._drop = drop
        self._newest: dict[int, Growth] = {}
        self._woken = asyncio.Event()

    @property
    def ended(self) -> bool:
        """True once nothing more will come."""
        return not self._growing or self.error is not None

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts."""
        return sum(len(request.prompt_token_ids) for request in self.requests)

    @property
    def cached_tokens(self) -> int:
        """Of all prompts, found in the cache."""
        return sum(request.num_cached_tokens or 0 for request in self.requests)

    async def until_accepted(self) -> None:
        """Wait until the engine has it. Raises what the engine says against it."""
        while not (self.accepted or self.ended):
            await self._sleep()
        if self.error is not None:
            raise self.error

    async def __aiter__(self) -> AsyncIterator[list[Growth]]:
        """What has grown since the last look, until all answers are complete. Raises what went wrong."""
        while True:
            newest, self._newest = self._newest, {}
            if newest:
                yield list(newest.values())
            if self.error is not None:
                raise self.error
            if self._newest:
                continue
            if not self._growing:
                return
            await self._sleep()

    def drop(self, error: Exception | None = None) -> None:
        """Nobody waits any more, or nobody may (`error` says why): its answers end, if they have not. May be
        called twice."""
        if not self.ended:
            self._drop(self)
        self.fail(error or Dropped("nobody waits for this answer any more."))

    def begin(self, request: int) -> None:
        """The engine has begun with this prompt, or never will: its place in the queue is free."""
        if self.places:
            self.places[request].leave()

    def take(self, grown: list[Growth]) -> None:
        """Answers have grown."""
        if self.ended:
            return
        for growth in grown:
            self._newest[growth.index] = growth
            if growth.finish_reason:
                self._growing.discard(growth.index)
        self._woken.set()

    def accept(self) -> None:
        """The engine has it."""
        self.accepted = True
        self._woken.set()

    def fail(self, error: Exception) -> None:
        """Nothing more will come, for this reason."""
        for place in self.places:
            place.leave()
        if not self.ended:
            self.error = error
            self._woken.set()

    async def _sleep(self) -> None:
        self._woken.clear()
        await self._woken.wait()
