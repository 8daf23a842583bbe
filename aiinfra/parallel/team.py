"""A training run by all ranks of a mesh: one folder, one curve, the same files as with one process.

    torchrun --nproc-per-node 4 -m aiinfra train … --mesh dp=2,tp=2

Each rank takes its part of model and batches; checkpoints are written in parts, by all of them together. The
first rank writes everything else. It also puts the whole model together, in its own memory, to evaluate and
to export it. Notebook 06.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from aiinfra.model.transformer import Transformer
from aiinfra.parallel.checkpoint import load_sharded, read_place_together, save_sharded, whole_model
from aiinfra.parallel.launch import rank_device
from aiinfra.parallel.parallelize import ParallelOptions, parallelize
from aiinfra.train.data import PackedStream
from aiinfra.train.options import TrainOptions
from aiinfra.train.state import Waypoint
from aiinfra.train.team import Share, dealt

T = TypeVar("T")


class MeshTeam:
    """Training's `Team` on a mesh; `options`, but for autocast, which the run chooses."""

    def __init__(self, mesh: DeviceMesh, options: ParallelOptions = ParallelOptions()) -> None:
        self.mesh = mesh
        self.first = dist.get_rank() == 0
        self.options = options

    def share(self, model: Transformer, options: TrainOptions, stream: PackedStream,
              autocast: torch.dtype | None) -> Share:
        """This rank's part. Raises ValueError for what the mesh cannot divide, and for compiled layers."""
        if options.compile:
            raise ValueError("compile is not supported on a mesh. Train without --compile.")
        how = replace(self.options, autocast=autocast)
        parallel = parallelize(model, self.mesh, options.accumulate, how)
        batches = map(parallel.own_tokens, dealt(stream, parallel.place, parallel.dealt))
        return Share(
            model=parallel.model,
            optimizer=parallel.optimizer(options.weight_decay),
            batches=batches,
            accumulate=parallel.accumulate,
            ranks=parallel.ranks,
            passes=parallel.passes,
            autocast=None,                    # the passes have it
            parts=dist.get_world_size() // parallel.dealt)

    def in_turn(self, work: Callable[[], T]) -> T:
        """`work()` of the first rank, then of all others at once."""
        if not self.first:
            dist.barrier()
        done = work()
        if self.first:
            dist.barrier()
        return done

    def agree(self, value: T) -> T:
        """The first rank's value, which can be pickled."""
        told = [value]
        dist.broadcast_object_list(told, device=rank_device())
        return told[0]

    def any(self, value: bool) -> bool:
        """True if it is true on one rank."""
        box = torch.tensor([float(value)], device=rank_device())
        dist.all_reduce(box)
        return bool(box.item())

    def whole(self, model: nn.Module) -> Transformer | None:
        """The model of all ranks as one, on the first."""
        return whole_model(model, model.config)

    def save(self, folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, place: Waypoint) -> None:
        """See checkpoint.py."""
        save_sharded(folder, model, optimizer, place)

    def read_place(self, folder: Path) -> Waypoint:
        """See checkpoint.py."""
        return read_place_together(folder)

    def load(self, folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Waypoint:
        """See checkpoint.py."""
        return load_sharded(folder, model, optimizer)
