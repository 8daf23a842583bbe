"""Ranks without processes: one thread each, in this process, so that a cell's own functions can be ranks.

    in_threads(work, 4)      work(comm) on four threads ──► [result of rank 0, …, of rank 3]

What a thread sends lies in a box until the receiver comes for it. All boxes are under one lock, so it is
known at any moment who waits for whom; if nobody is left who could send, all are stopped and told so, where
processes would wait for ever. The first rank that fails stops the others, and its error is raised.

Everything else is as between processes: the same Communicator. Pages 06, 07 and 17, and their judges.
"""

import ctypes
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aiinfra.errors import plural
from aiinfra.parallel.communicator import Communicator

SECONDS = 30.0                     # a judge's ranks are small; who needs longer is in a loop without an end


class Deadlock(RuntimeError):
    """Everybody who is left waits for a message that nobody will send."""


class _Stopped(BaseException):
    """Another rank has failed. No Exception, so that a rank's `except Exception` lets it through."""


class _Boxes:
    """The wire between threads."""

    def __init__(self, ranks: int) -> None:
        self.change = threading.Condition()
        self.boxes: dict[tuple[int, int], deque[Tensor]] = defaultdict(deque)     # (from, to) -> in order
        self.waiting: dict[int, int] = {}                                         # who -> for whom
        self.alive = set(range(ranks))
        self.stopped = False

    def put(self, tensor: Tensor, source: int, to: int) -> None:
        with self.change:
            self.boxes[source, to].append(tensor.clone())
            self.change.notify_all()

    def take(self, like: Tensor, source: int, to: int) -> Tensor:
        box = self.boxes[source, to]
        with self.change:
            self.waiting[to] = source
            while not box:
                self._give_up_if_nobody_can_send()
                self.change.wait()
                if self.stopped:
                    raise _Stopped
            del self.waiting[to]
            arrived = box.popleft()
        if arrived.shape != like.shape or arrived.dtype != like.dtype:
            raise ValueError(f"rank {to} expects {_kind(like)} from rank {source}, which sent "
                             f"{_kind(arrived)}.")
        return arrived

    def leave(self, rank: int) -> None:
        """This rank has ended; whoever waits for it has to know."""
        with self.change:
            self.alive.discard(rank)
            self.waiting.pop(rank, None)
            self.change.notify_all()

    def stop(self) -> None:
        with self.change:
            self.stopped = True
            self.change.notify_all()

    def _give_up_if_nobody_can_send(self) -> None:
        stuck = {who: source for who, source in self.waiting.items() if not self.boxes[source, who]}
        if self.alive <= stuck.keys():
            waits = [f"rank {who} waits for rank {source}{self._ended(source)}"
                     for who, source in sorted(stuck.items())]
            raise Deadlock("; ".join(waits) + ". Nobody is left who could send.")

    def _ended(self, rank: int) -> str:
        if rank in self.alive:
            return ""
        return ", which has ended"


def _kind(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"


class _ThreadWire:
    """One rank's access to the boxes."""

    def __init__(self, boxes: _Boxes, me: int) -> None:
        self.boxes = boxes
        self.me = me

    def send(self, tensor: Tensor, to: int) -> None:
        self.boxes.put(tensor, source=self.me, to=to)

    def receive(self, like: Tensor, source: int) -> Tensor:
        return self.boxes.take(like, source=source, to=self.me)


class _Rank(threading.Thread):
    """Runs work(comm), and keeps what it returns or raises."""

    def __init__(self, work: Callable[[Communicator], Any], me: int, ranks: int, boxes: _Boxes) -> None:
        super().__init__(name=f"rank {me}", daemon=True)
        self.work = work
        self.me = me
        self.boxes = boxes
        self.comm = Communicator(range(ranks), me, _ThreadWire(boxes, me))
        self.grad = torch.is_grad_enabled()             # each thread has its own switch
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            with torch.set_grad_enabled(self.grad):
                self.result = self.work(self.comm)
        except BaseException as error:
            self.error = error
            if not isinstance(error, _Stopped):
                self.boxes.stop()
        finally:
            self.boxes.leave(self.me)


def in_threads(work: Callable[[Communicator], Any], ranks: int, seconds: float = SECONDS) -> list[Any]:
    """work(comm) on `ranks` threads; what each returns, in the order of ranks.

    Raises what the first rank to fail has raised, Deadlock if all wait for each other, and TimeoutError after
    `seconds`. Ranks share this process' memory: what one writes into an argument, the others see.
    """
    boxes = _Boxes(ranks)
    threads = [_Rank(work, me, ranks, boxes) for me in range(ranks)]
    for thread in threads:
        thread.start()
    try:
        _join(threads, time.monotonic() + seconds)
    finally:
        boxes.stop()
        for thread in threads:
            _interrupt(thread)
    failed = [thread for thread in threads if thread.error and not isinstance(thread.error, _Stopped)]
    if failed:
        first = failed[0]
        first.error.add_note(f"(raised by rank {first.me} of {ranks})")
        raise first.error
    return [thread.result for thread in threads]


def _join(threads: list[_Rank], deadline: float) -> None:
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    running = [thread for thread in threads if thread.is_alive()]
    if running:
        names = ", ".join(thread.name for thread in running)
        raise TimeoutError(f"{plural(len(running), 'rank')} ({names}) still running. Does a loop not end?")


def _interrupt(thread: threading.Thread) -> None:
    """Python raises _Stopped in a thread that computes on: an endless loop would slow all else."""
    if thread.is_alive():
        number = ctypes.c_ulong(thread.ident)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(number, ctypes.py_object(_Stopped))
