"""EMULATION: a slower network than this machine's own, for timing what would be too quick to see.

    compute   ████ all_reduce ████ all_reduce ████████ wait ·············· ████
    link            └► ▒▒▒▒▒▒▒▒▒▒▒▒▒ └──────► ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒► done        one transfer at a time

A rank has one link. What it asks a group of the link to do waits for its turn there, then for the seconds of
perf/collectives.py, and then for gloo itself, which really moves the bytes. All of that passes on the link's
thread: whoever asked goes on computing until it waits. A collective ends when the last rank's link is through
with it. The sums are gloo's; nothing but the time is made up, and every record of it says so. Notebook 07.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.futures import Future
from torch.utils._pytree import tree_leaves

from aiinfra.parallel.counting import sent_by
from aiinfra.perf.collectives import Link, Volume

_BACKEND = "emulated"


@dataclass(frozen=True)
class Transfer:
    """What the emulated link carried, and when; seconds of `time.perf_counter`, on which all processes of a
    machine agree."""

    name: str
    sent: Volume
    asked: float               # when it was asked for
    start: float               # when the link was free for it
    end: float                 # when the link was through with it, and gloo was asked


class _LinkedWork(dist.Work):
    """What a group hands out at once: it is done when the link is through, and then gloo."""

    def __init__(self, ask_gloo: Callable[[], dist.Work], result: list[Tensor]) -> None:
        super().__init__()
        self._ask_gloo = ask_gloo
        self._result = result
        self._asked = Event()
        self._real: dist.Work | None = None
        self._trouble: BaseException | None = None
        self._future: Future = Future()

    def begin(self) -> None:
        """On the link's thread: it is through."""
        try:
            self._real = self._ask_gloo()
        except BaseException as trouble:          # it belongs to whoever waits
            self._trouble = trouble
            self._future.set_exception(trouble)
        else:
            self._follow()
        self._asked.set()

    def _follow(self) -> None:
        try:
            future = self._real.get_future()
        except RuntimeError:                      # gloo's sends and barriers have none: they are waited for
            return
        future.add_done_callback(self._settle)

    def _settle(self, real: Future) -> None:
        try:
            real.wait()
        except Exception as trouble:
            self._future.set_exception(trouble)
        else:
            self._future.set_result(self._result)

    def wait(self, timeout: Any = None) -> bool:
        """Until it is done. Raises what gloo raises."""
        self._asked.wait()
        if self._trouble is not None:
            raise self._trouble
        return self._real.wait()

    def is_completed(self) -> bool:
        """Whether `wait` would return at once."""
        if not self._asked.is_set():
            return False
        return self._trouble is not None or self._real.is_completed()

    def get_future(self) -> Future:
        """Settled when it is done, with the tensors; that of a send or a barrier never is."""
        return self._future

    def result(self) -> list[Tensor]:
        """The tensors that it writes."""
        return self._result


@dataclass(frozen=True)
class _Job:
    name: str
    sent: Volume
    asked: float
    begin: Callable[[], None]


class EmulatedLink:
    """This rank's link to the others. `group()` makes process groups whose traffic goes through it, for
    anything that takes a group, or a mesh of `DeviceMesh.from_group`.

        with EmulatedLink(Link(latency_seconds=50e-6, bytes_per_second=125e6)) as emulated:
            dist.all_reduce(gradients, group=emulated.group(), async_op=True)

    `transfers` tells what it carried, in order. A receive costs nothing here: its sender has paid.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self.transfers: list[Transfer] = []
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._free_at = 0.0
        self._thread = Thread(target=self._carry, name="emulated link", daemon=True)
        self._thread.start()

    def group(self, ranks: Sequence[int] | None = None) -> ProcessGroup:
        """A process group over gloo behind this link; None: of all ranks. All of them call this."""
        if _BACKEND.upper() not in dist.Backend._plugins:
            dist.Backend.register_backend(_BACKEND, _make_group, extended_api=True, devices=["cpu"])
        real = dist.new_group(ranks, backend="gloo")
        return dist.new_group(ranks, backend=_BACKEND, pg_options=(self, real))

    def submit(self, job: _Job) -> None:
        """Put a transfer behind those that wait for the link."""
        self._jobs.put(job)

    def close(self) -> None:
        """Carry what has been asked for, then end the link's thread."""
        self._jobs.put(None)
        self._thread.join()

    def __enter__(self) -> "EmulatedLink":
        return self

    def __exit__(self, *trouble: object) -> None:
        self.close()

    def _carry(self) -> None:
        while (job := self._jobs.get()) is not None:
            start = max(job.asked, self._free_at)
            self._free_at = start + self.link.seconds(job.sent)
            time.sleep(max(0.0, self._free_at - time.perf_counter()))
            transfer = Transfer(
                name=job.name,
                sent=job.sent,
                asked=job.asked,
                start=start,
                end=time.perf_counter())
            self.transfers.append(transfer)
            job.begin()


# A method of a process group -> the operation that counting.py knows, and its arguments that it reads.
_METHODS = {
    "allreduce": ("allreduce_", "tensors"),
    "allreduce_coalesced": ("allreduce_coalesced_", "tensors"),
    "allgather": ("allgather_", "output_tensors input_tensors"),
    "allgather_coalesced": ("allgather_coalesced_", "output_lists input_list"),
    "_allgather_base": ("_allgather_base_", "output_tensor input_tensor"),
    "allgather_into_tensor_coalesced": ("allgather_into_tensor_coalesced_", "outputs inputs"),
    "reduce_scatter": ("reduce_scatter_", "output_tensors input_tensors"),
    "_reduce_scatter_base": ("_reduce_scatter_base_", "output_tensor input_tensor"),
    "reduce_scatter_tensor_coalesced": ("reduce_scatter_tensor_coalesced_", "outputs inputs"),
    "alltoall": ("alltoall_", "output_tensors input_tensors"),
    "alltoall_base": ("alltoall_base_", "output input output_split_sizes input_split_sizes"),
    "broadcast": ("broadcast_", "tensors"),
    "reduce": ("reduce_", "tensors"),
    "gather": ("gather_", "output_tensors input_tensors"),
    "scatter": ("scatter_", "output_tensors input_tensors"),
    "barrier": ("barrier", ""),
}
_NEW_NAMES = {               # since PyTorch 2.13, which asks for them in place of the old ones
    "all_gather_single": "_allgather_base",
    "all_gather_single_coalesced": "allgather_into_tensor_coalesced",
    "reduce_scatter_single": "_reduce_scatter_base",
    "reduce_scatter_single_coalesced": "reduce_scatter_tensor_coalesced",
    "all_to_all_single": "alltoall_base",
}


class _LinkedGroup(ProcessGroup):
    """A process group of PyTorch's whose work goes through an emulated link to a real group."""

    def __init__(self, emulated: EmulatedLink, real: ProcessGroup) -> None:
        super().__init__(real.rank(), real.size())
        self._emulated = emulated
        self._real = real

    def getBackendName(self) -> str:
        """As PyTorch calls it."""
        return _BACKEND

    @property
    def group_name(self) -> str:
        """As PyTorch has registered it."""
        return dist.distributed_c10d._world.pg_names[self]

    def send(self, tensors: list[Tensor], dst: int, tag: int) -> dist.Work:
        """It leaves this rank when the link is through."""
        work = _LinkedWork(lambda: self._real.send(tensors, dst, tag), tensors)
        self._through_the_link("send", {"tensors": tensors}, work.begin)
        return work

    def recv(self, tensors: list[Tensor], src: int, tag: int) -> dist.Work:
        """Its sender has the cost."""
        return self._real.recv(tensors, src, tag)

    def recv_anysource(self, tensors: list[Tensor], tag: int) -> dist.Work:
        """Its sender has the cost."""
        return self._real.recv_anysource(tensors, tag)

    def _through_the_link(self, operation: str, values: dict[str, Any], begin: Callable[[], None]) -> None:
        name, sent = sent_by(operation, values, self)
        job = _Job(name=name, sent=sent, asked=time.perf_counter(), begin=begin)
        self._emulated.submit(job)


def _linked(method: str, operation: str, names: str) -> Callable[..., dist.Work]:
    """A method of the group that goes through the link before the real group's method is called."""
    def ask(self: _LinkedGroup, *args: Any, **given: Any) -> dist.Work:
        real = getattr(self._real, method)
        result = tree_leaves(args[0]) if args else []
        work = _LinkedWork(lambda: real(*args, **given), result)
        options = [*args, *given.values()][-1]
        values = dict(zip(names.split(), args))
        values["root_rank"] = getattr(options, "rootRank", None)
        self._through_the_link(operation, values, work.begin)
        return work
    return ask


for _method, (_operation, _names) in _METHODS.items():
    setattr(_LinkedGroup, _method, _linked(_method, _operation, _names))
for _method, _old in _NEW_NAMES.items():
    if hasattr(ProcessGroup, _method):
        setattr(_LinkedGroup, _method, _linked(_method, *_METHODS[_old]))


def _make_group(options: Any, wired: tuple[EmulatedLink, ProcessGroup]) -> ProcessGroup:
    """What PyTorch calls for a new group of this kind."""
    return _LinkedGroup(*wired)
