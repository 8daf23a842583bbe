"""One model, any mesh: every kind of parallelism is applied from outside, in an order that composes.

    parts ─► expert ─► tensor ─► context ─► pipeline ─► fsdp │ dp      ─► Parallel: what the loop needs
    names    ep        tp        cp         pp          the rest

The model is the same one that runs on one rank, and so are its parameters' names. Invariant: the loop's
losses, gradients, norms and updates are those of one process; `python -m aiinfra parallel check` prints by
how much they differ. Notebook 06.
"""

import math
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from aiinfra.config import config
from aiinfra.parallel.context import cut_batch
from aiinfra.parallel.data import BucketedAllReduce, Overlapped, check_copies, shard_fully
from aiinfra.parallel.expert import join_parts, shard_experts
from aiinfra.parallel.mesh import describe_mesh, mesh_rank, mesh_size
from aiinfra.parallel.orders import make_table
from aiinfra.parallel.parts import split_parts
from aiinfra.parallel.pipeline import Pipeline
from aiinfra.parallel.ranks import MeshRanks
from aiinfra.parallel.stages import cut_stages
from aiinfra.parallel.tensor import TensorLoss, tensor_parallel
from aiinfra.train.loop import OneByOne, Passes, next_token_loss
from aiinfra.train.optimizer import adamw

DEALT_DIMENSIONS = ("dp", "fsdp", "ep")       # along these, ranks see different micro-batches


@config
class ParallelOptions:
    """What a mesh leaves open."""

    schedule: str = "1f1b"           # of a pipeline; see orders.py
    stages: int | None = None        # that each of its ranks has; None: as is usual for the schedule
    sequence: bool = False           # tp: the norms' rows are cut, too
    gather_again: bool = True        # fsdp: layers are dropped after the forward pass (ZeRO-3); else ZeRO-2
    autocast: torch.dtype | None = None


@dataclass(frozen=True)
class Parallel:
    """This rank's part of a model, and what the loop needs to train it together with the others.

    accumulate: micro-batches of a step that this rank takes part in.
    """

    mesh: DeviceMesh
    model: nn.Module
    ranks: MeshRanks
    passes: Passes
    accumulate: int
    multiple: int = 1                # of how many tokens a rank's part of a micro-batch must be

    @property
    def dealt(self) -> int:
        """Among how many the micro-batches of a step are dealt."""
        return dealt_among(self.mesh)

    @property
    def place(self) -> int:
        """This rank's place among them: it takes the micro-batches numbered place, place + dealt, …"""
        place = 0
        for name in self.mesh.mesh_dim_names:
            if name in DEALT_DIMENSIONS:
                place = place * mesh_size(self.mesh, name) + mesh_rank(self.mesh, name)
        return place

    def own_batches(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Of the micro-batches of one process, those of this rank; of each, its tokens."""
        return map(self.own_tokens, islice(batches, self.place, None, self.dealt))

    def own_tokens(self, batch: Any) -> Any:
        """This rank's part of a micro-batch: along cp it has some of the tokens."""
        if mesh_size(self.mesh, "cp") == 1:
            return batch
        dense = self.model.config.moe is None        # routers would count tokens that are filled in
        return cut_batch(batch, self.mesh["cp"], self.multiple, fill=dense)

    def optimizer(self, weight_decay: float = 0.1) -> torch.optim.AdamW:
        """AdamW over this rank's parameters; those placed alike are updated together."""
        optimizer = adamw(self.model, weight_decay)
        groups = [group for one in optimizer.param_groups for group in _placed_alike(one)]
        optimizer.param_groups[:] = groups
        return optimizer


def parallelize(model: nn.Module, mesh: DeviceMesh, micro_batches: int = 1,
                options: ParallelOptions = ParallelOptions()) -> Parallel:
    """Change `model` (a Transformer, whole, the same on every rank) into this rank's part of it.

    micro_batches: of a step, on all ranks together. All ranks call it together. Raises ValueError for what
    the mesh cannot divide, CopiesDiffer if the ranks' models are not the same.
    """
    accumulate = share_of(micro_batches, mesh)
    _check_together(mesh)
    split_parts(model)
    check_copies(model, mesh)
    _place_experts(model, mesh)
    sequence = options.sequence and mesh_size(mesh, "tp") > 1
    loss = None
    if mesh_size(mesh, "tp") > 1:
        loss = TensorLoss(tensor_parallel(model, mesh["tp"], sequence))
    multiple = mesh_size(mesh, "tp") if sequence else 1
    if mesh_size(mesh, "pp") > 1:
        table = make_table(options.schedule, mesh_size(mesh, "pp"), accumulate, options.stages)
        model = cut_stages(model, mesh, table, loss)
    reduced, finish = [], None
    if mesh_size(mesh, "fsdp") > 1:
        shard_fully(model, mesh["fsdp"], options.gather_again)
        reduced.append("fsdp")
    tied = {}
    if mesh_size(mesh, "pp") > 1:
        tied = model.tied
        passes = Pipeline(model, mesh, options.schedule, accumulate, chunks=options.stages,
                          autocast=options.autocast, rows=_rows_between(multiple))
    else:
        passes = OneByOne(model, loss or next_token_loss, options.autocast)
    if mesh_size(mesh, "dp") > 1:
        sums = BucketedAllReduce(model.parameters(), mesh.get_group("dp"))
        reduced.append("dp")
        finish = sums.finish
        if mesh_size(mesh, "pp") == 1:        # a pipeline's backwards may come in two halves
            passes = Overlapped(passes, sums)
    return Parallel(
        mesh=mesh,
        model=model,
        ranks=MeshRanks(mesh, reduced, tied, finish),
        passes=passes,
        accumulate=accumulate,
        multiple=multiple)


def _place_experts(model: nn.Module, mesh: DeviceMesh) -> None:
    """Experts on the ranks of ep, if there are any; parts of a sequence balance their load together."""
    if mesh_size(mesh, "ep") > 1:
        shard_experts(model, mesh["ep"])
    if mesh_size(mesh, "cp") > 1:
        join_parts(model, mesh.get_group("cp"))


def dealt_among(mesh: DeviceMesh) -> int:
    """Among how many the micro-batches of a step are dealt."""
    return math.prod(mesh_size(mesh, name) for name in DEALT_DIMENSIONS)


def share_of(micro_batches: int, mesh: DeviceMesh) -> int:
    """Of so many micro-batches a step, those that each rank takes. Raises ValueError if they cannot be dealt
    evenly."""
    ranks = dealt_among(mesh)
    share, rest = divmod(micro_batches, ranks)
    if rest or not share:
        text = describe_mesh({name: mesh_size(mesh, name) for name in mesh.mesh_dim_names})
        raise ValueError(f"a step of {micro_batches} micro-batches cannot be dealt among {ranks} ranks "
                         f"(mesh {text}). Accumulate a multiple of {ranks}.")
    return share


def _check_together(mesh: DeviceMesh) -> None:
    """Raises ValueError for dimensions that cannot be composed yet."""
    if mesh_size(mesh, "ep") > 1 and mesh_size(mesh, "tp") > 1:
        raise ValueError("a mesh of ep and tp together is not supported. Take dp in place of one of them.")


def _rows_between(multiple: int) -> Callable[[Any], int]:
    """How many rows of a micro-batch's activations a rank sends to the next stage."""
    return lambda batch: len(batch.tokens) // multiple


def whole_name(name: str, known: Container[str]) -> str:
    """The name that a stage's parameter has in the whole model: the last stage's copy of a tied table is the
    embedding's."""
    if name == "lm_head.weight" and name not in known:
        return "embed.weight"
    return name


def _placed_alike(group: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A parameter group divided into those on the same mesh, which one fused update can take."""
    kinds: dict[Any, list[nn.Parameter]] = {}
    for parameter in group["params"]:
        kind = parameter.device_mesh if isinstance(parameter, DTensor) else None
        kinds.setdefault(kind, []).append(parameter)
    for parameters in kinds.values():
        yield {**group, "params": parameters}
