"""What this rank sends, by collective: counted at PyTorch's door, and on the sockets behind it.

    with CollectiveCounter() as counter:       every operation of torch.distributed that a step asks for:
        step()                                 DDP's, FSDP2's, DTensor's, pipelining's, your own
    counter.sent["all_reduce"]                 Volume(calls, sent_bytes, messages)

What is counted is what a ring would send for the tensors that were asked for (perf/collectives.py), so it is
the same for gloo, for NCCL and for a formula. `tcp_sent_bytes` is what really left this process: gloo's
reduce-scatter, for instance, sends an all-reduce's bytes, twice what it has to. Notebooks 06 and 07.
"""

import math
import os
import socket
import stat
import struct
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from aiinfra.perf import collectives
from aiinfra.perf.collectives import Volume

_NAMESPACES = ("c10d", "_c10d_functional", "_c10d_functional_autograd", "_dtensor")


@dataclass(frozen=True)
class _Asked:
    """One operation that was asked for: its arguments by name, and who takes part."""

    values: dict[str, Any]
    group: dist.ProcessGroup

    @property
    def ranks(self) -> int:
        return self.group.size()

    def nbytes(self, name: str) -> int:
        return _nbytes(self.values[name])

    def hops_from(self, root: str) -> int:
        """How far this rank is from the root, along the ring."""
        return (self.group.rank() - self.values[root]) % self.ranks


def _nbytes(tensors: Tensor | Iterable) -> int:
    return sum(tensor.nbytes for tensor in tree_leaves(tensors))


def _whole(formula: Callable[[float, int], Volume], name: str) -> Callable[[_Asked], Volume]:
    """The formula on the bytes of the argument `name`, which is the whole."""
    return lambda asked: formula(asked.nbytes(name), asked.ranks)


def _part(formula: Callable[[float, int], Volume], name: str) -> Callable[[_Asked], Volume]:
    """The formula where `name` is each rank's part of the whole."""
    return lambda asked: formula(asked.ranks * asked.nbytes(name), asked.ranks)


def _exchange(asked: _Asked) -> Volume:
    """An all-to-all, equal or not: what this rank keeps for itself is not sent."""
    given, ranks = asked.values["input"], asked.ranks
    rows = asked.values.get("input_split_sizes")
    if not rows:
        return collectives.all_to_all(given.nbytes, ranks)
    row_bytes = given.nbytes / max(1, sum(rows))
    others = sum(rows) - rows[asked.group.rank()]
    return Volume(calls=1, sent_bytes=others * row_bytes, messages=ranks - 1)


def _exchange_list(asked: _Asked) -> Volume:
    parts = asked.values["input_tensors"]
    own = parts[asked.group.rank()].nbytes
    return Volume(calls=1, sent_bytes=_nbytes(parts) - own, messages=asked.ranks - 1)


def _down_the_chain(name: str, root: str) -> Callable[[_Asked], Volume]:
    def sent(asked: _Asked) -> Volume:
        is_last = asked.hops_from(root) == asked.ranks - 1
        return collectives.chain(asked.nbytes(name), is_last)
    return sent


def _up_the_chain(asked: _Asked) -> Volume:
    is_root = asked.hops_from("root_rank") == 0
    return collectives.chain(asked.nbytes("tensors"), is_last=is_root)


def _to_root(asked: _Asked) -> Volume:
    is_root = asked.hops_from("root_rank") == 0
    return collectives.chain(asked.nbytes("input_tensors"), is_last=is_root)


def _from_root(asked: _Asked) -> Volume:
    """A scatter: the root sends each of the others its part."""
    if asked.hops_from("root_rank"):
        return Volume(calls=1)
    return collectives.all_to_all(asked.nbytes("input_tensors"), asked.ranks)


def _message(name: str) -> Callable[[_Asked], Volume]:
    return lambda asked: collectives.point_to_point(asked.nbytes(name))


def _messages(asked: _Asked) -> Volume:
    """Several sends and receives in one call."""
    operations = zip(asked.values["op_list"], asked.values["tensors"])
    sends = [collectives.point_to_point(tensor.nbytes) for kind, tensor in operations if kind == "isend"]
    return sum(sends, Volume())


def _nothing(asked: _Asked) -> Volume:
    return Volume(calls=1)


def _rounds(asked: _Asked) -> Volume:
    """A barrier: everybody has heard of everybody after log2 n rounds of empty messages."""
    return Volume(calls=1, messages=math.ceil(math.log2(asked.ranks)))


_REDUCE, _GATHER = collectives.all_reduce, collectives.all_gather
_SCATTER = collectives.reduce_scatter
_KINDS: dict[str, tuple[str, Callable[[_Asked], Volume]]] = {
    # torch.distributed's own
    "allreduce_": ("all_reduce", _whole(_REDUCE, "tensors")),
    "allreduce_coalesced_": ("all_reduce", _whole(_REDUCE, "tensors")),
    "allgather_": ("all_gather", _part(_GATHER, "input_tensors")),
    "_allgather_base_": ("all_gather", _part(_GATHER, "input_tensor")),
    "allgather_coalesced_": ("all_gather", _part(_GATHER, "input_list")),
    "allgather_into_tensor_coalesced_": ("all_gather", _part(_GATHER, "inputs")),
    "reduce_scatter_": ("reduce_scatter", _whole(_SCATTER, "input_tensors")),
    "_reduce_scatter_base_": ("reduce_scatter", _whole(_SCATTER, "input_tensor")),
    "reduce_scatter_tensor_coalesced_": ("reduce_scatter", _whole(_SCATTER, "inputs")),
    "alltoall_": ("all_to_all", _exchange_list),
    "alltoall_base_": ("all_to_all", _exchange),
    "broadcast_": ("broadcast", _down_the_chain("tensors", "root_rank")),
    "reduce_": ("reduce", _up_the_chain),
    "gather_": ("gather", _to_root),
    "scatter_": ("scatter", _from_root),
    "send": ("send", _message("tensors")),
    "recv_": ("receive", _nothing),
    "recv_any_source_": ("receive", _nothing),
    "barrier": ("barrier", _rounds),
    "monitored_barrier_": ("barrier", _rounds),
    # those that return new tensors, which DTensor and compiled code ask for
    "all_reduce": ("all_reduce", _whole(_REDUCE, "input")),
    "all_reduce_": ("all_reduce", _whole(_REDUCE, "input")),
    "all_reduce_coalesced": ("all_reduce", _whole(_REDUCE, "inputs")),
    "all_reduce_coalesced_": ("all_reduce", _whole(_REDUCE, "inputs")),
    "all_gather_into_tensor": ("all_gather", _part(_GATHER, "input")),
    "all_gather_into_tensor_out": ("all_gather", _part(_GATHER, "input")),
    "all_gather_into_tensor_coalesced": ("all_gather", _part(_GATHER, "inputs")),
    "reduce_scatter_tensor": ("reduce_scatter", _whole(_SCATTER, "input")),
    "reduce_scatter_tensor_out": ("reduce_scatter", _whole(_SCATTER, "input")),
    "reduce_scatter_tensor_coalesced": ("reduce_scatter", _whole(_SCATTER, "inputs")),
    "all_to_all_single": ("all_to_all", _exchange),
    "shard_dim_alltoall": ("all_to_all", _exchange),
    "broadcast": ("broadcast", _down_the_chain("input", "src")),
    "isend": ("send", _message("tensor")),
    "irecv": ("receive", _nothing),
    "batch_p2p_ops": ("send", _messages),
}
_FREE = ("wait_tensor", "_wrap_tensor_autograd", "check_for_nan")


class CollectiveCounter(TorchDispatchMode):
    """While it is entered, counts what this rank sends, by collective, in `sent`.

    A counter sees the thread that has entered it, and the backward passes that this thread starts; one
    counter may be entered on several threads at once. A collective whose tensors' bytes cannot be read raises
    ValueError with its name: nothing goes by uncounted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sent: dict[str, Volume] = defaultdict(Volume)
        self._lock = Lock()

    @property
    def total(self) -> Volume:
        """All collectives together."""
        return sum(self.sent.values(), Volume())

    def table(self) -> str:
        """A line a collective, and one for all of them."""
        lines = [f"{'collective':16s} {'calls':>7s} {'messages':>9s} {'sent bytes':>14s}"]
        for name, sent in [*self.sent.items(), ("together", self.total)]:
            lines.append(f"{name:16s} {sent.calls:7,d} {sent.messages:9,.0f} {sent.sent_bytes:14,.0f}")
        return "\n".join(lines)

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple = (),
                           kwargs: dict | None = None) -> Any:
        if DTensor in types:
            return NotImplemented        # it first says which collectives it needs; those are asked for here
        given = kwargs or {}
        if operation.namespace in _NAMESPACES:
            self._count(operation, args, given)
        return operation(*args, **given)

    def _count(self, operation: Any, args: tuple, given: dict[str, Any]) -> None:
        name = operation._schema.name.split("::")[1]
        if name in _FREE:
            return
        names = [argument.name for argument in operation._schema.arguments]
        values = dict(zip(names, args)) | given
        kind, sent = sent_by(name, values, _group(values))
        with self._lock:
            self.sent[kind] += sent


def sent_by(operation: str, values: dict[str, Any], group: dist.ProcessGroup) -> tuple[str, Volume]:
    """The collective that an operation of torch.distributed is, and what this rank of `group` sends in it.
    values: its arguments by the names of its schema. Raises ValueError for one that is not known."""
    if operation not in _KINDS:
        raise ValueError(f"{operation} is a collective whose bytes cannot be read, so they would be missing. "
                         "Add it to the table in aiinfra/parallel/counting.py.")
    kind, formula = _KINDS[operation]
    return kind, formula(_Asked(values, group))


def _group(values: dict[str, Any]) -> dist.ProcessGroup:
    """The group of an operation, which has it itself or its name."""
    if "process_group" in values:
        return dist.ProcessGroup.unbox(values["process_group"])
    named = values["group_name"]
    if isinstance(named, str):
        return torch._C._distributed_c10d._resolve_process_group(named)
    return named


_BYTES_ACKED = 120                  # where tcp_info (linux/tcp.h) has tcpi_bytes_acked, a uint64


def tcp_sent_bytes() -> int | None:
    """Bytes that this process has sent over its open TCP connections, as the kernel counts them, when the
    other side has confirmed them; None where the system does not tell (it is Linux that does).

    The difference of two calls is what was really sent between them, headers of gloo's messages included.
    """
    if sys.platform != "linux":
        return None
    files = [int(file.name) for file in Path("/proc/self/fd").iterdir()]
    return sum(_acknowledged(number) for number in files)


def _acknowledged(number: int) -> int:
    """What the other side of a file that is a TCP connection has confirmed; 0 for any other file."""
    with suppress(OSError):
        if not stat.S_ISSOCK(os.fstat(number).st_mode):
            return 0
        with socket.socket(fileno=os.dup(number)) as connection:
            if connection.type != socket.SOCK_STREAM or connection.family == socket.AF_UNIX:
                return 0
            facts = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED + 8)
            return struct.unpack_from("Q", facts, _BYTES_ACKED)[0]
    return 0
