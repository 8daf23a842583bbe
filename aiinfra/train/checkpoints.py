"""The checkpoints of a run: the last few and the best stay, and a damaged one is passed over.

    DIR/step-00000100/   DIR/step-00000200/   DIR/step-00000300/   DIR/best.json
         the best             last but one           last          {"step": 100, "loss": 2.31}

A checkpoint is written before its step is evaluated, so what evaluation runs into costs nothing that was
learnt; which one is the best is written down afterwards. Notebook 04.
"""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from aiinfra.files import write_json
from aiinfra.train.state import StateError, Waypoint
from aiinfra.train.team import Alone, Team


class Checkpoints:
    """The folder `folder`, in which `keep` checkpoints and the best one are kept, each written by all of
    `team`."""

    def __init__(self, folder: str | Path, keep: int = 2, team: Team = Alone()) -> None:
        if keep < 1:
            raise ValueError(f"keep={keep}; at least 1 checkpoint must stay.")
        self.folder = Path(folder)
        self.keep = keep
        self.team = team

    def steps(self) -> list[int]:
        """The steps of which there is a checkpoint, the newest last."""
        names = [path.name for path in self.folder.glob("step-*") if path.is_dir()]
        numbers = [name.removeprefix("step-") for name in names]
        return sorted(int(number) for number in numbers if number.isdigit())

    def path(self, step: int) -> Path:
        """Where the checkpoint of `step` is."""
        return self.folder / f"step-{step:08}"

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, place: Waypoint) -> None:
        """Write a checkpoint, then remove those that need not stay. Raises OSError if it cannot be written;
        all that was there is still there then."""
        self.team.save(self.path(place.step), model, optimizer, place)
        if self.team.first:
            self._clean(place)

    def _clean(self, place: Waypoint) -> None:
        """Remove what need not stay."""
        # A run that fell back to an older checkpoint has come by here before: those ahead are of no use.
        ahead = [step for step in self.steps() if step > place.step]
        behind = [step for step in self.steps() if step <= place.step]
        for step in [*ahead, *behind[:-self.keep]]:
            if step != self.best_step():
                shutil.rmtree(self.path(step))

    def load_newest(self, model: nn.Module, optimizer: torch.optim.Optimizer,
                    accept: Callable[[Waypoint], object] = lambda place: None) -> Waypoint | None:
        """Take up the newest checkpoint that is whole; None if there is none. Warns about each that is
        damaged.

        accept: sees where that run stood before anything is changed, and may raise. Raises StateError if
        there are checkpoints and all of them are damaged, or if they are of another model.
        """
        problems = []
        for step in reversed(self.steps()):
            try:
                place = self.team.read_place(self.path(step))
            except StateError as error:
                problems.append(str(error))
                continue
            for problem in problems:
                warnings.warn(f"{problem}: going on from {self.path(step).name}.", stacklevel=2)
            accept(place)
            return self.team.load(self.path(step), model, optimizer)
        if problems:
            raise StateError(f"no checkpoint in {self.folder.name} is whole: {'; '.join(problems)}.")
        return None

    def note_evaluation(self, step: int, loss: float) -> bool:
        """Remember that the checkpoint of `step` has this loss; True if it is the best so far."""
        best = self.best_loss()
        better = best is None or loss < best
        if better:
            write_json(self.folder / "best.json", {"step": step, "loss": loss})
        return better

    def best_step(self) -> int | None:
        """The step of the best checkpoint; None if none has been evaluated."""
        return self._best().get("step")

    def best_loss(self) -> float | None:
        """Its loss."""
        return self._best().get("loss")

    def _best(self) -> dict[str, float]:
        try:
            return json.loads((self.folder / "best.json").read_text())
        except FileNotFoundError:
            return {}
