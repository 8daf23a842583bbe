"""Several processes that take one call together, from a cell or under torchrun.

    launch(fn, 4, x) ──► forkserver ─┬─► rank 0: fn(x) ─┐
      │  PyTorch is loaded there     ├─► rank 1: fn(x) ─┼─► [value, value, value, value]
      │  once, not once a rank       ├─► rank 2: fn(x) ─┤
      └─ store: who is where         └─► rank 3: fn(x) ─┘   one fails: the others end, its traceback is shown

Ranks are real processes with memory of their own, which know one another through a process group: gloo on a
CPU, NCCL where every rank has a GPU. Invariant: when `launch` is left, in whatever way, all of them have
ended. Notebook 06.
"""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any

import cloudpickle
import torch
import torch.distributed as dist

from aiinfra.device import device_of_rank
from aiinfra.environment import torchrun_place
from aiinfra.parallel.agree import meet

_PRELOADED = ["torch", "torch.distributed.tensor", "torch.distributed.fsdp",
              "torch.distributed.pipelining", "aiinfra.train.loop", __name__]
_HOST = "127.0.0.1"
_OTHERS_SECONDS = 0.5       # after a first failure: how long others may take to tell theirs
_END_SECONDS = 5.0          # from the last word of a rank that dies to its end


class RankFailed(RuntimeError):
    """A rank raised, or died. The text is its traceback; `rank` and `kind`, the name of what it raised, tell
    who and what; `kind` is "" for one that was killed."""

    def __init__(self, rank: int, ranks: int, kind: str, said: str) -> None:
        super().__init__(f"rank {rank} of {ranks} {said}")
        self.rank = rank
        self.kind = kind


@dataclass(frozen=True)
class _Order:
    """What a rank is told, pickled."""

    rank: int
    ranks: int
    port: int
    timeout_seconds: float
    threads: int
    call: bytes


@dataclass(frozen=True)
class _Report:
    """What a rank tells at its end."""

    seconds: float               # on the machine's clock: who failed first is the cause
    kind: str = ""               # of the exception; "" if it is well
    said: str = ""
    value: bytes = b""


def launch(fn: Callable[..., Any], ranks: int, *args: Any, threads: int = 1, port: int = 0,
           timeout_seconds: float = 120.0, **options: Any) -> list[Any]:
    """`fn(*args, **options)` in `ranks` processes of one process group; each one's value, in rank order.

    fn: a function of a module or of a cell; with all it takes and gives it is pickled. Within,
    `torch.distributed.get_rank()` tells them apart, and `rank_device()` where to compute. threads: of
    PyTorch, for a rank. port: 0 finds a free one. timeout_seconds: the longest that a collective may wait.
    Raises RankFailed for the rank that failed first, after the others have been ended; ValueError for a
    count below 1, OSError for a port in use.
    """
    if ranks < 1:
        raise ValueError(f"ranks={ranks}; at least 1 process is needed.")
    store = serve_store(_HOST, port, timeout_seconds)
    call = cloudpickle.dumps((fn, args, options))
    orders = [_Order(
        rank=rank,
        ranks=ranks,
        port=store.port,
        timeout_seconds=timeout_seconds,
        threads=threads,
        call=call) for rank in range(ranks)]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    team = _Team(ranks)
    try:
        for order in orders:
            team.start(context, order)
        return team.values()
    finally:
        team.end()


class _Team:
    """The processes of one launch, from their start to their end."""

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self.processes: list[BaseProcess] = []
        self.pipes: list[Connection] = []
        self.reports: dict[int, _Report] = {}

    def start(self, context: Any, order: _Order) -> None:
        """One more rank."""
        mine, its = context.Pipe(duplex=False)
        process = context.Process(target=_run_rank, args=(order, its), name=f"rank {order.rank}", daemon=True)
        with _no_main_program():
            process.start()
        its.close()                       # so that its end closes the pipe
        self.processes.append(process)
        self.pipes.append(mine)

    def values(self) -> list[Any]:
        """What each of them returns. Raises RankFailed when one has failed."""
        while len(self.reports) < self.ranks:
            self._listen(None)
            if any(map(_is_failure, self.reports.values())):
                self._raise_the_first()
        return [cloudpickle.loads(self.reports[rank].value) for rank in range(self.ranks)]

    def end(self) -> None:
        """No process is left. Those that have told all wait for this, so that nobody's last message is cut
        off."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()
        for pipe in self.pipes:
            pipe.close()

    def _listen(self, seconds: float | None) -> None:
        """Take the reports that come first; a rank whose pipe closes without one has died."""
        silent = {pipe: rank for rank, pipe in enumerate(self.pipes) if rank not in self.reports}
        for pipe in wait(list(silent), seconds):
            rank = silent[pipe]
            try:
                self.reports[rank] = pipe.recv()
            except EOFError:
                self.processes[rank].join(_END_SECONDS)
                said = _how_it_died(self.processes[rank].exitcode)
                # The others fail only because it has died, however early they tell.
                self.reports[rank] = _Report(seconds=0.0, kind="death", said=said)

    def _raise_the_first(self) -> None:
        """Others that failed because of the first may have told before it has: give it a moment."""
        deadline = time.monotonic() + _OTHERS_SECONDS
        while len(self.reports) < self.ranks and time.monotonic() < deadline:
            self._listen(deadline - time.monotonic())
        failed = {rank: report for rank, report in self.reports.items() if _is_failure(report)}
        first = min(failed, key=lambda rank: failed[rank].seconds)
        report = failed[first]
        kind = "" if report.kind == "death" else report.kind
        raise RankFailed(first, self.ranks, kind, report.said)


@contextmanager
def _no_main_program() -> Iterator[None]:
    """A rank shall not run the script again that launches it: what it needs of it comes pickled."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _is_failure(report: _Report) -> bool:
    return bool(report.kind)


def _how_it_died(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        return f"was ended by {name}. If nobody sent it, look whether the machine ran out of memory."
    return f"ended with exit code {exit_code} and without a word."


def _run_rank(order: _Order, pipe: Connection) -> None:
    """What a rank's process does from its start to its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)         # Ctrl-C is answered by who launched
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(order.threads)
    try:
        device = device_of_rank(order.rank, order.ranks)
        store = dist.TCPStore(_HOST, order.port, is_master=False, timeout=_time(order.timeout_seconds))
        _join(store, order.rank, order.ranks, device, order.timeout_seconds)
        fn, args, options = cloudpickle.loads(order.call)
        value = cloudpickle.dumps(fn(*args, **options))
        report = _Report(seconds=time.monotonic(), value=value)
    except BaseException as error:
        seconds = time.monotonic()
        said = f"failed:\n{_own_traceback(error)}"
        report = _Report(seconds=seconds, kind=type(error).__name__, said=said)
    _flush()
    with suppress(BrokenPipeError):                      # nobody listens any more
        pipe.send(report)
    _end_with_parent()                                   # who launched kills it before


def _own_traceback(error: BaseException) -> str:
    """From the frame below `_run_rank` on, which is what the caller wrote."""
    frames = error.__traceback__.tb_next or error.__traceback__
    return "".join(traceback.format_exception(type(error), error, frames)).rstrip()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def init_ranks(configuration: Mapping[str, Any] | None = None,
               timeout_seconds: float = 120.0) -> torch.device:
    """Under `torchrun`: join the process group of all that it started; returns where this rank computes.

    configuration: JSON values that must be the same on every rank. It is compared, and so are the versions of
    PyTorch and of this library, before anything else is exchanged. Raises Disagreement if one differs (who
    and what), RanksMissing if one does not come in time, ValueError if torchrun started nothing, OSError for
    a port in use.
    """
    place = torchrun_place()
    if place is None:
        raise ValueError("this process was not started by torchrun. Run: torchrun --nproc-per-node 2 -m …")
    device = device_of_rank(place.local_rank, place.local_ranks)
    if place.rank == 0 and not place.store_is_there:
        store = serve_store(place.host, place.port, timeout_seconds)
    else:
        store = dist.TCPStore(place.host, place.port, is_master=False, timeout=_time(timeout_seconds))
    store = dist.PrefixStore(f"attempt {place.attempt}", store)
    meet(store, place.rank, place.ranks, configuration or {}, timeout_seconds)
    _join(store, place.rank, place.ranks, device, timeout_seconds)
    return device


def serve_store(host: str, port: int, timeout_seconds: float) -> dist.TCPStore:
    """A store for ranks to find one another, served by this process. port 0: any that is free. Raises OSError
    if the port is in use."""
    timeout = _time(timeout_seconds)
    try:
        return dist.TCPStore(host, port, is_master=True, wait_for_workers=False, timeout=timeout)
    except dist.DistNetworkError as error:
        if "EADDRINUSE" not in str(error) and "in use" not in str(error):
            raise
        raise OSError(f"port {port} of {host} is in use. End who has it, or take another one: 0 finds one "
                      "that is free, torchrun has --master-port.") from error


def rank_device() -> torch.device:
    """Where this rank computes: its GPU, or the CPU."""
    if "nccl" in dist.get_backend():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _join(store: dist.Store, rank: int, ranks: int, device: torch.device, timeout_seconds: float) -> None:
    logging.getLogger("torch.distributed.tensor._redistribute").addFilter(_is_no_gather_in_two)
    # PyTorch 2.13 renames collectives whose new names 2.11 does not have.
    warnings.filterwarnings("ignore", r".*deprecated. Please use `torch\.distributed", FutureWarning)
    backend = "cpu:gloo"
    if device.type == "cuda":
        backend += ",cuda:nccl"
    dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=_time(timeout_seconds))


def _is_no_gather_in_two(record: logging.LogRecord) -> bool:
    """A tensor that FSDP and tp have both cut is put together along one, then the other. PyTorch 2.13 warns
    that sums might have another order on each rank; a gather has no sums."""
    return "sequential all_gather operations" not in record.getMessage()


def _time(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)
