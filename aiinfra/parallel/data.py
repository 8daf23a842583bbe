"""Copies of a model that see different tokens: gradients are added while the backward pass still runs.

    backward   layer 3  layer 2 │layer 1  layer 0 │                     BucketedAllReduce: each copy is whole
    sums               [bucket 0: layers 3, 2  ][bucket 1: 1, 0 ]       a bucket leaves when it is full

    forward    gather 0 ─ layer 0 ─ drop │ gather 1 ─ layer 1 ─ drop    FSDP: a rank keeps 1/N of all,
    backward   gather 1 ─ layer 1 ─ reduce-scatter │ …                  a layer is whole while it runs

Both give sums over ranks, not means. Li et al. 2020 (PyTorch distributed), arXiv 2006.15704; Rajbhandari et
al. 2020 (ZeRO), arXiv 1910.02054. Notebook 06.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from aiinfra.errors import plural
from aiinfra.model.transformer import Transformer
from aiinfra.parallel.ranks import cut_dimensions, local_gradient, spread
from aiinfra.parallel.stages import RankLayers
from aiinfra.train.loop import Passes, Phases

_BUCKET_BYTES = 25 << 20          # DDP's: large enough to fill a link, small enough to leave early


@dataclass(eq=False)
class _Bucket:
    """Parameters whose gradients travel as one message."""

    parameters: list[nn.Parameter] = field(default_factory=list)
    nbytes: int = 0
    waited_for: int = 0                    # gradients that are still to come in this step
    flat: Tensor | None = None             # once it is under way
    work: Any = None


class BucketedAllReduce:
    """Adds gradients over a group of copies, bucket by bucket, while the backward pass goes on.

    Gradients come from the last layer to the first, so buckets are filled in that order. Every rank sends
    them in the same order, whichever is full first. Wait for all with `finish`, which also sends those that
    are not full: parameters that this rank did not use add zeros.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], group: dist.ProcessGroup,
                 bucket_bytes: int = _BUCKET_BYTES) -> None:
        self.group = group
        self.buckets = _fill_buckets(parameters, bucket_bytes)
        self._sent = 0
        for bucket in self.buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(partial(self._arrived, bucket))

    def expect(self, passes: int) -> None:
        """A step begins in which each parameter gets so many gradients, one a micro-batch, to be added up
        before they are sent."""
        for bucket in self.buckets:
            bucket.waited_for = passes * len(bucket.parameters)

    def finish(self) -> None:
        """All gradients are sums when this returns."""
        while self._sent < len(self.buckets):
            self._send_next()
        for bucket in self.buckets:
            bucket.work.wait()
            spread(bucket.flat, [local_gradient(parameter) for parameter in bucket.parameters])
            bucket.flat = bucket.work = None
        self._sent = 0

    def _arrived(self, bucket: _Bucket, parameter: nn.Parameter) -> None:
        if bucket.flat is not None:
            raise RuntimeError("a gradient came after its bucket had been sent: the step has more passes "
                               "than `expect` was told.")
        bucket.waited_for -= 1
        while self._sent < len(self.buckets) and self.buckets[self._sent].waited_for == 0:
            self._send_next()

    def _send_next(self) -> None:
        bucket = self.buckets[self._sent]
        gradients = [local_gradient(parameter) for parameter in bucket.parameters]
        bucket.flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        bucket.work = dist.all_reduce(bucket.flat, group=self.group, async_op=True)
        self._sent += 1


def _fill_buckets(parameters: Iterable[nn.Parameter], bucket_bytes: int) -> list[_Bucket]:
    """Buckets of at most so many bytes, from the last parameter to the first; each of one dtype."""
    buckets: list[_Bucket] = []
    for parameter in reversed([one for one in parameters if one.requires_grad]):
        last = buckets[-1] if buckets else None
        if last is None or last.nbytes + parameter.nbytes > bucket_bytes or _is_other(last, parameter):
            buckets.append(_Bucket())
        buckets[-1].parameters.append(parameter)
        buckets[-1].nbytes += parameter.nbytes
    return buckets


def _is_other(bucket: _Bucket, parameter: nn.Parameter) -> bool:
    return bucket.parameters[0].dtype != parameter.dtype


@dataclass(frozen=True)
class Overlapped:
    """Passes whose gradients leave while they run."""

    passes: Passes
    sums: BucketedAllReduce

    def __call__(self, window: list[Any], total: int, phase: Phases) -> float:
        """As `Passes`."""
        self.sums.expect(len(window))
        return self.passes(window, total, phase)


def shard_fully(model: nn.Module, mesh: DeviceMesh, gather_again: bool = True) -> None:
    """Divide `model` among the ranks of `mesh`: FSDP2, each of `model.layers` by itself, the rest as one.

    The rest are the embedding, the last norm and the head: a table that is both is in one group, once.
    gather_again: layers are dropped after the forward pass and gathered again for the backward (ZeRO-3); if
    not, they stay whole until then (ZeRO-2). Gradients are sums.
    """
    if isinstance(model, RankLayers):                          # each stage runs by itself
        for stage in model.stages.values():
            shard_fully(stage, mesh, gather_again)
        return
    for layer in model.layers.children():
        fully_shard(layer, mesh=mesh, reshard_after_forward=gather_again)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    if isinstance(model, Transformer):
        register_fsdp_forward_method(model, "hidden")
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)     # gloo has no sum that is scaled on the way


class CopiesDiffer(RuntimeError):
    """Ranks that must hold the same values do not. Names the parameters."""


def check_copies(model: nn.Module, mesh: DeviceMesh) -> None:
    """Compare every parameter with the copies of it on other ranks, before the first step.

    Ranks with another seed, or with other files, would train models that differ, and their sums would mean
    nothing. All ranks call it together; raises CopiesDiffer on all of them.
    """
    for name in mesh.mesh_dim_names:
        if name != "pp":
            _check_along(name, model, mesh.get_group(name))


def _check_along(dimension: str, model: nn.Module, group: dist.ProcessGroup) -> None:
    mine = {name: _digest(parameter) for name, parameter in model.named_parameters()
            if dimension not in cut_dimensions(parameter)}
    told: list[dict[str, str]] = [{}] * dist.get_world_size(group)
    dist.all_gather_object(told, mine, group)
    first = told[0]
    names = {name for other in told for name in other}
    differ = {name for name in names for other in told if first.get(name) != other.get(name)}
    if differ:
        share = f"{len(differ)} of {plural(len(first), 'parameter')}"
        raise CopiesDiffer(f"copies along {dimension} differ in {share}, such as {min(differ)}. "
                           "Give every rank the same seed and the same files.")


def _digest(parameter: nn.Parameter) -> str:
    local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
    raw = local.detach().cpu().contiguous().view(torch.uint8)
    return hashlib.blake2b(raw.numpy(), digest_size=8).hexdigest()
