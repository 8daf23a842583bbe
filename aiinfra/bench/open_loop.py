"""Load that does not wait for answers, and load that does.

    open loop     ──r──r─r────r──r──►      sent when it is time, whatever has become of the others
    closed loop   ──r~~~~answer r~~~►      N users, each with one request at a time

If a server stands still for a second, an open loop has everybody who arrives in that second wait for it; a
closed loop sends nothing meanwhile and sees one long wait for each user: the many that would have waited are
left out of its percentiles (coordinated omission). Times count from when a request should have been sent, so
a generator that is late hides nothing. Notebook 15.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from aiinfra.bench.http import Clock, Endpoint, HttpServed
from aiinfra.bench.trace import TraceRequest

Answered = Callable[[int, HttpServed], None]        # is told the number of a request, and what became of it


async def open_loop(endpoint: Endpoint, trace: Sequence[TraceRequest], answered: Answered,
                    patience: Sequence[float | None] | None = None) -> None:
    """Send each request at its time; `answered` is told of each as it ends. patience: after so many seconds
    its sender hangs up (None: never)."""
    clock = _clock()

    async def send(i: int) -> None:
        await asyncio.sleep(trace[i].arrival_seconds - clock())
        limit = patience[i] if patience else None
        answered(i, await endpoint.ask(trace[i], clock, limit))

    await _all(send, len(trace))


async def closed_loop(endpoint: Endpoint, trace: Sequence[TraceRequest], answered: Answered,
                      users: int) -> None:
    """`users` work through the trace in its order, each sending its next request when it has its answer; the
    trace's times do not count. A request arrives when it is sent: there is no other time for it."""
    clock = _clock()
    todo = iter(range(len(trace)))

    async def work(_: int) -> None:
        for i in todo:
            request = replace(trace[i], arrival_seconds=clock())
            answered(i, await endpoint.ask(request, clock))

    await _all(work, users)


def random_patience(requests: int, share: float, longest: float, seed: int = 0) -> list[float | None]:
    """Of each request, how long its sender waits: for a `share` of them up to `longest` seconds, drawn
    evenly; for the others None. Raises ValueError for a share that is none."""
    if not 0 <= share <= 1:
        raise ValueError(f"{share:g} of the requests hang up; it must be between 0 and 1.")
    rng = random.Random(seed)
    drawn = [(rng.random(), rng.uniform(0, longest)) for _ in range(requests)]
    return [seconds if chance < share else None for chance, seconds in drawn]


def _clock() -> Clock:
    loop = asyncio.get_running_loop()
    start = loop.time()
    return lambda: loop.time() - start


async def _all(work: Callable, count: int) -> None:
    async with asyncio.TaskGroup() as group:
        for i in range(count):
            group.create_task(work(i))
