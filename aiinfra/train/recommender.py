"""Training a recommender on fresh histories, and saying how good it is.

    made-up world ─► histories ─► model.loss ─► Adam ─► … ─► evaluate: popularity < the model < the optimum

The histories follow known rules (histories.py), so the best possible accuracy is a number and "good" is not a
matter of taste. Notebook 10b.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from aiinfra.model.recommender import Histories, Recommender
from aiinfra.train.histories import World, generate, probabilities
from aiinfra.train.loop import loop
from aiinfra.train.step import TrainStep


@dataclass(frozen=True)
class _Events:
    """A micro-batch of histories, as the loop takes it."""

    histories: Histories
    valid: int
    text_bytes: int = 0

    def to(self, device: torch.device | str) -> "_Events":
        return replace(self, histories=self.histories.to(device))


@dataclass(frozen=True)
class _FallToZero:
    """20 steps of warm-up, then a straight line to zero."""

    peak: float
    steps: int

    def learning_rate(self, step: int) -> float:
        warm_up = min(step / 20, 1.0)
        return self.peak * warm_up * (1 - (step - 1) / self.steps)


def training(model: Recommender, world: World, steps: int = 250, users: int = 64, learning_rate: float = 0.02,
             seed: int = 0, backend: str | None = None) -> Iterator[TrainStep]:
    """Train in place on fresh histories, a step for each record that is asked for; its tokens are events.

    Adam, with 20 steps of warm-up and then a linear fall to zero. Seeds `seed` … `seed + steps - 1`
    are used for histories: evaluate on others.
    """
    def loss(model: Recommender, batch: _Events, total: int) -> Tensor:
        mean = model.loss(batch.histories, backend)
        return mean * (batch.valid / total)

    return loop(
        model,
        batches=(_events(world, users, seed + step) for step in range(steps)),
        optimizer=torch.optim.Adam(model.parameters()),
        schedule=_FallToZero(learning_rate, steps),
        clip_norm=None,
        loss=loss)


def _events(world: World, users: int, seed: int) -> _Events:
    histories = generate(world, users, seed)
    return _Events(histories, valid=len(histories.items) - users)      # a user's last event has no next one


@dataclass(frozen=True)
class Score:
    """Top-1 accuracies and losses (nats) of next-item prediction on the same events."""

    accuracy: float            # the model's
    popular: float             # of always naming the item that is taken most (chosen with hindsight)
    repeat: float              # of naming the last item again
    best: float                # of the rules themselves: no recommender does better on average
    loss: float                # the model's cross-entropy
    best_loss: float           # the rules': the entropy of the histories
    after_long_gap: float      # the model's accuracy where the user's own counts decide
    best_after_long_gap: float


def evaluate(model: Recommender, world: World, histories: Histories, backend: str | None = None) -> Score:
    """Compare the model with two baselines and with the optimum, event by event."""
    with torch.no_grad():
        scores = model(histories.to(model.head.weight.device), backend).cpu()
    following = histories.next_items()
    kept = following >= 0
    target = following[kept]
    logits = scores[kept]
    last = histories.items[kept]
    users = histories.users()
    truth = torch.cat([probabilities(world, items, seconds) for items, seconds in users])
    is_long = torch.cat([world.is_long(seconds.diff()) for _, seconds in users])
    right = logits.argmax(-1) == target
    best = truth.argmax(-1) == target
    return Score(
        accuracy=_share(right),
        popular=_share(target == target.mode().values),
        repeat=_share(target == last),
        best=_share(best),
        loss=F.cross_entropy(logits, target).item(),
        best_loss=F.nll_loss(truth.log(), target).item(),
        after_long_gap=_share(right[is_long]),
        best_after_long_gap=_share(best[is_long]))


def _share(hits: Tensor) -> float:
    return hits.float().mean().item()
