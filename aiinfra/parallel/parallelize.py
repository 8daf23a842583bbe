"""One model, any mesh: every kind of parallelism is applied from outside, in an order that composes.

    parts ─► expert ─► tensor ─► context ─► pipeline ─► fsdp │ dp      ─► Parallel: what the loop needs
    names    ep        tp        cp         pp          the rest

The model is the same one that runs on one rank, and so are its parameters' names. Invariant: the loop's
losses, gradients, norms and updates are those of one process; `python -m aiinfra parallel check` prints by
how much they differ. Notebook 06.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from aiinfra.parallel.data import BucketedAllReduce, Overlapped, check_copies, shard_fully
from aiinfra.parallel.mesh import describe_mesh, mesh_rank, mesh_size
from aiinfra.parallel.parts import split_parts
from aiinfra.parallel.ranks import MeshRanks
from aiinfra.train.loop import OneByOne, Passes
from aiinfra.train.optimizer import adamw

DEALT_DIMENSIONS = ("dp", "fsdp", "ep")       # along these, ranks see different micro-batches


@dataclass(frozen=True)
class Parallel:
    """This rank's part of a model, and what the loop needs to train it together with the others."""

    mesh: DeviceMesh
    model: nn.Module
    ranks: MeshRanks
    passes: Passes

    @property
    def dealt(self) -> int:
        """Among how many the micro-batches of a step are dealt."""
        return math.prod(mesh_size(self.mesh, name) for name in DEALT_DIMENSIONS)

    @property
    def place(self) -> int:
        """This rank's place among them: it takes the micro-batches numbered place, place + dealt, …"""
        place = 0
        for name in self.mesh.mesh_dim_names:
            if name in DEALT_DIMENSIONS:
                place = place * mesh_size(self.mesh, name) + mesh_rank(self.mesh, name)
        return place

    def accumulate(self, micro_batches: int) -> int:
        """Of so many micro-batches a step, those that this rank takes. Raises ValueError if they cannot be
        dealt evenly."""
        share, rest = divmod(micro_batches, self.dealt)
        if rest:
            sizes = {name: mesh_size(self.mesh, name) for name in self.mesh.mesh_dim_names}
            raise ValueError(f"a step of {micro_batches} micro-batches cannot be dealt among {self.dealt} "
                             f"ranks (mesh {describe_mesh(sizes)}). Make it a multiple of {self.dealt}.")
        return share

    def optimizer(self, weight_decay: float = 0.1) -> torch.optim.AdamW:
        """AdamW over this rank's parameters; those placed alike are updated together."""
        optimizer = adamw(self.model, weight_decay)
        groups = [group for one in optimizer.param_groups for group in _placed_alike(one)]
        optimizer.param_groups[:] = groups
        return optimizer


def parallelize(model: nn.Module, mesh: DeviceMesh, *, gather_again: bool = True) -> Parallel:
    """Change `model` (a Transformer, whole, the same on every rank) into this rank's part of it.

    gather_again: with fsdp, drop a layer's weights after its forward pass and gather them again for the
    backward (ZeRO-3), or keep them (ZeRO-2). All ranks call it together. Raises ValueError for what the mesh
    cannot divide, CopiesDiffer if the ranks' models are not the same.
    """
    split_parts(model)
    check_copies(model, mesh)
    passes: Passes = OneByOne(model)
    reduced, finish = [], None
    if mesh_size(mesh, "fsdp") > 1:
        shard_fully(model, mesh["fsdp"], gather_again)
        reduced.append("fsdp")
    if mesh_size(mesh, "dp") > 1:
        sums = BucketedAllReduce(model.parameters(), mesh.get_group("dp"))
        passes = Overlapped(passes, sums)
        reduced.append("dp")
        finish = sums.finish
    return Parallel(
        mesh=mesh,
        model=model,
        ranks=MeshRanks(mesh, reduced, finish=finish),
        passes=passes)


def _placed_alike(group: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A parameter group divided into those on the same mesh, which one fused update can take."""
    kinds: dict[Any, list[nn.Parameter]] = {}
    for parameter in group["params"]:
        kind = parameter.device_mesh if isinstance(parameter, DTensor) else None
        kinds.setdefault(kind, []).append(parameter)
    for parameters in kinds.values():
        yield {**group, "params": parameters}
