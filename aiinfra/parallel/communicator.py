"""Who am I, who are the others, and how do numbers get from one of us to another?

    rank 0   send(tensor, to=1)  ─────────►  rank 1   receive(like, source=0)

All ranks run the same program; only their number differs. A communicator is some of the ranks, numbered from
0 in an order that all of them know; `among` makes a smaller one of it, such as a row or a column of a mesh.
How a message travels is the wire's affair: between processes here, between threads in lab/threads.py, so that
one function runs on both. What a rank sends is counted.

After MPI's communicator, and small enough to build collectives on it by hand: by_hand.py does. What has to be
fast calls torch.distributed's own. Notebook 06.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from aiinfra.parallel.launch import launch


class Wire(Protocol):
    """Carries tensors between ranks, which have the numbers of the whole world."""

    def send(self, tensor: Tensor, to: int) -> None:
        """Send a copy and go on; nobody waits for it to arrive."""
        ...

    def receive(self, like: Tensor, source: int) -> Tensor:
        """Wait for the next tensor from `source`; it has the shape and dtype of `like`."""
        ...


@dataclass
class Sent:
    """What a rank has sent so far, through any of its communicators."""

    nbytes: int = 0
    messages: int = 0


class Communicator:
    """The ranks of `world_ranks`, among them mine, `me`: `rank` is my number here, `size` how many we are."""

    def __init__(self, world_ranks: Sequence[int], me: int, wire: Wire, sent: Sent | None = None) -> None:
        if me not in world_ranks:
            raise ValueError(f"rank {me} is not among {list(world_ranks)}: only members can talk.")
        self.rank = list(world_ranks).index(me)
        self.size = len(world_ranks)
        self.sent = sent or Sent()
        self._world_ranks = list(world_ranks)
        self._wire = wire

    def send(self, tensor: Tensor, to: int) -> None:
        """Send a copy to rank `to` and go on at once."""
        self.sent.nbytes += tensor.nbytes
        self.sent.messages += 1
        self._wire.send(tensor.detach(), self._world_ranks[to])

    def receive(self, like: Tensor, source: int) -> Tensor:
        """Wait for the next tensor from rank `source`; it has the shape and dtype of `like`."""
        return self._wire.receive(like, self._world_ranks[source])

    def among(self, ranks: Sequence[int]) -> "Communicator":
        """Those of us, in this order, as a communicator of its own. Raises ValueError if I am not one."""
        chosen = [self._world_ranks[rank] for rank in ranks]
        me = self._world_ranks[self.rank]
        return Communicator(chosen, me, self._wire, self.sent)


class ProcessWire:
    """Between the processes of torch.distributed's default group, for tensors on the CPU (gloo).

    Not for NCCL, whose sends to one rank wait for each other.
    """

    def __init__(self) -> None:
        self._leaving: list[tuple[dist.Work, Tensor]] = []

    def send(self, tensor: Tensor, to: int) -> None:
        """Send a copy and go on."""
        copy = tensor.contiguous().clone()          # the caller may write into the original at once
        self._leaving.append((dist.isend(copy, to), copy))

    def receive(self, like: Tensor, source: int) -> Tensor:
        """Wait for the next tensor from `source`."""
        arrived = torch.empty(like.shape, dtype=like.dtype)
        dist.recv(arrived, source)
        return arrived

    def finish(self) -> None:
        """Wait until everything sent has been received."""
        for work, _ in self._leaving:
            work.wait()
        self._leaving.clear()


def in_processes(work: Callable[..., Any], ranks: int, *args: Any) -> list[Any]:
    """work(comm, *args) in `ranks` processes (see `launch`); what each returns, in the order of ranks."""
    return launch(_talk, ranks, work, args)


def _talk(work: Callable[..., Any], args: tuple) -> Any:
    wire = ProcessWire()
    everyone = range(dist.get_world_size())
    result = work(Communicator(everyone, dist.get_rank(), wire), *args)
    wire.finish()
    return result
