"""Who takes a run's steps together: one process, or the ranks of a mesh.

    TrainingRun ── share(model) ──► Share: this process's part of the model, how its passes go, its batches
                ── in_turn, agree ─► one process writes the folder's files; all decide alike
                ── save, load ─────► a checkpoint: whole, or in parts that all ranks write together

Only `Alone` is here. A mesh brings its own (parallel/team.py), so that nothing in this folder knows a rank.
Notebook 06.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from aiinfra.model.transformer import Transformer
from aiinfra.train.compiled import compile_layers
from aiinfra.train.data import MicroBatch, PackedStream
from aiinfra.train.loop import OneRank, Passes, Ranks
from aiinfra.train.optimizer import adamw
from aiinfra.train.onednn import use_onednn
from aiinfra.train.options import TrainOptions
from aiinfra.train.recompute import recompute
from aiinfra.train.state import Waypoint, load_state, read_place, save_state

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """What one process of a team trains, and how."""

    model: nn.Module                 # its part
    optimizer: torch.optim.Optimizer
    batches: Iterable[Any]           # of the stream, those that it takes
    accumulate: int                  # of them, how many a step
    ranks: Ranks
    passes: Passes | None            # None: one by one, in the dtype `autocast`
    autocast: torch.dtype | None
    parts: int                       # processes that divide the work on a micro-batch

    def prepare(self, options: TrainOptions) -> None:
        """Have its layers run as the options say, once the weights are those of the run."""
        if self.passes is None:
            use_onednn(self.model)
        recompute(self.model, options.recompute)
        if options.compile:
            compile_layers(self.model)


class Team(Protocol):
    """The processes of a run. All call these together, in the same order."""

    first: bool                      # this one writes what is written once

    def share(self, model: Transformer, options: TrainOptions, stream: PackedStream,
              autocast: torch.dtype | None) -> Share:
        """This process's part of a model that is whole. Raises ValueError for what cannot be divided."""
        ...

    def in_turn(self, work: Callable[[], T]) -> T:
        """`work()` of every process, of the first one first: the others find what it has made."""
        ...

    def agree(self, value: T) -> T:
        """The first one's value."""
        ...

    def any(self, value: bool) -> bool:
        """True if it is true for one of them."""
        ...

    def whole(self, model: nn.Module) -> Transformer | None:
        """The model of all as one, for the first; None for others."""
        ...

    def save(self, folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, place: Waypoint) -> None:
        """Write a checkpoint. Raises OSError for all of them if it cannot be written."""
        ...

    def read_place(self, folder: Path) -> Waypoint:
        """Where the run stood that wrote `folder`. Raises StateError if anything is damaged."""
        ...

    def load(self, folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Waypoint:
        """Bring model and optimizer to a checkpoint's state. Raises StateError, with nothing changed."""
        ...


class Alone:
    """A team of one."""

    first = True

    def share(self, model: Transformer, options: TrainOptions, stream: PackedStream,
              autocast: torch.dtype | None) -> Share:
        """All of it."""
        return Share(
            model=model,
            optimizer=adamw(model, options.weight_decay),
            batches=stream,
            accumulate=options.accumulate,
            ranks=OneRank(),
            passes=None,
            autocast=autocast,
            parts=1)

    def in_turn(self, work: Callable[[], T]) -> T:
        """Do it."""
        return work()

    def agree(self, value: T) -> T:
        """Its own."""
        return value

    def any(self, value: bool) -> bool:
        """Its own."""
        return value

    def whole(self, model: nn.Module) -> Transformer:
        """It is."""
        return model

    def save(self, folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, place: Waypoint) -> None:
        """See state.py."""
        save_state(folder, model, optimizer, place)

    def read_place(self, folder: Path) -> Waypoint:
        """See state.py."""
        return read_place(folder)

    def load(self, folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Waypoint:
        """See state.py."""
        return load_state(folder, model, optimizer)


def dealt(stream: PackedStream, place: int, among: int) -> Iterator[MicroBatch]:
    """Of every `among` micro-batches of `stream` the one numbered `place`. The stream's position is always
    that of all of them together."""
    while True:
        start = stream.position
        stream.position = start + place * stream.rows
        batch = next(stream)
        stream.position = start + among * stream.rows
        yield batch
