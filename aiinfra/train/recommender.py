"""Training a recommender on fresh histories, and saying how good it is.

    made-up world ─► histories ─► model.loss ─► Adam ─► … ─► evaluate: popularity < the model < the optimum

The histories follow known rules (histories.py), so the best possible accuracy is a number and "good" is not a
matter of taste. Notebook 10.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from aiinfra.model.recommender import Histories, Recommender
from aiinfra.train.histories import World, generate, probabilities


@dataclass(frozen=True)
class RecommenderStep:
    """One training step: its loss, and how many events it learnt from."""

    step: int
    loss: float
    events: int


def train(model: Recommender, world: World, steps: int = 250, users: int = 64, learning_rate: float = 0.02,
          seed: int = 0, backend: str | None = None) -> list[RecommenderStep]:
    """Train in place on fresh histories at every step; returns a record of each step.

    Adam, with 20 steps of warm-up and then a linear fall to zero. Seeds `seed` … `seed + steps - 1`
    are used for histories: evaluate on others.
    """
    device = model.head.weight.device
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)

    def share_of_rate(step: int) -> float:
        warm_up = min((step + 1) / 20, 1.0)
        return warm_up * (1 - step / steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share_of_rate)
    records = []
    for step in range(steps):
        histories = generate(world, users, seed + step).to(device)
        optimizer.zero_grad()
        loss = model.loss(histories, backend)
        loss.backward()
        optimizer.step()
        schedule.step()
        events = len(histories.items) - users             # a user's last event has no next one
        records.append(RecommenderStep(step, loss.item(), events))
    return records


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
