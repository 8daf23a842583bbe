"""A small generative recommender: what comes next in a user's history, by HSTU layers.

    item ids ─► embedding ─► [ HSTU layer ] × L ─► norm ─► every item's score

    HSTU layer    U, V, Q, K = split(SiLU(Norm(X) W))          one projection, gated by SiLU
                  Y = X + W_o( U · Norm( attention(Q, K, V) ) )

Attention is pointwise SiLU with learned bias for distance in positions and in time
(kernels/hstu_attention.py); it replaces the feed-forward layer of a transformer as well, U being the
gate. Histories are packed one after another, without padding. Against histories of known rules
(histories.py) the best possible accuracy is a number, so "good" is not a matter of taste: `evaluate`
puts the model between the popularity baseline and that optimum.

Zhai et al. 2024, arXiv 2402.17152; Norm is RMSNorm here (the paper's is LayerNorm). Notebook 10.
"""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aiinfra.config import config
from aiinfra.kernels.cross_entropy import linear_cross_entropy
from aiinfra.kernels.hstu_attention import hstu_attention, naive_hstu
from aiinfra.kernels.hstu_bias import BUCKETS
from aiinfra.kernels.lang import pick_backend
from aiinfra.kernels.rmsnorm import rms_norm
from aiinfra.train.histories import Histories, World, generate, probabilities


@config
class RecommenderConfig:
    """Sizes of a recommender. `max_len` is the longest history, and n in attention's 1/n."""

    items: int = 50
    width: int = 32
    heads: int = 4
    layers: int = 2
    max_len: int = 24


class HSTULayer(nn.Module):
    """One layer, [N, D] -> [N, D], over packed histories."""

    def __init__(self, config: RecommenderConfig) -> None:
        super().__init__()
        self.heads, self.max_len = config.heads, config.max_len
        self.project = nn.Linear(config.width, 4 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.norm = nn.Parameter(torch.ones(config.width))
        self.attention_norm = nn.Parameter(torch.ones(config.width))
        # SiLU(0) is 0: a bias of 1 lets every earlier event count from the first step on
        self.position_table = nn.Parameter(torch.ones(config.heads, 2 * config.max_len - 1))
        self.time_table = nn.Parameter(torch.zeros(config.heads, BUCKETS))

    def forward(self, x: Tensor, histories: Histories, backend: str | None = None) -> Tensor:
        """x [N, D], one row an event of `histories`."""
        mixed = F.silu(self.project(rms_norm(x, self.norm, backend=backend)))                # [N, 4D]
        u, v, q, k = mixed.chunk(4, dim=-1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)) for t in (q, k, v))                     # [N, H, Dh]
        # Torch path: all histories as one padded batch, not one by one; they are short
        attend = (partial(naive_hstu, one_hot=False) if pick_backend(x, backend) == "torch"
                  else partial(hstu_attention, backend=backend))
        seen = attend(q, k, v, histories.offsets, histories.seconds, self.position_table, self.time_table,
                      max_len=self.max_len)
        return x + self.out(u * rms_norm(seen.flatten(1), self.attention_norm, backend=backend))


class Recommender(nn.Module):
    """Scores of every item as the next of each event; see the module's text."""

    def __init__(self, config: RecommenderConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.items, config.width)
        nn.init.normal_(self.embedding.weight, std=0.3)     # SiLU of small values is near its bend
        self.layers = nn.ModuleList(HSTULayer(config) for _ in range(config.layers))
        self.norm = nn.Parameter(torch.ones(config.width))
        self.head = nn.Linear(config.width, config.items, bias=False)

    def hidden(self, histories: Histories, backend: str | None = None) -> Tensor:
        """[N, D]: what is known at each event, the time of the next one included."""
        x = self.embedding(histories.items)
        for layer in self.layers:
            x = layer(x, histories, backend)
        return rms_norm(x, self.norm, backend=backend)

    def forward(self, histories: Histories, backend: str | None = None) -> Tensor:
        """Scores [N, V] of the next item after each event."""
        return self.head(self.hidden(histories, backend))

    def loss(self, histories: Histories, backend: str | None = None) -> Tensor:
        """Mean cross-entropy of the next item over all events that have one."""
        return linear_cross_entropy(self.hidden(histories, backend), self.head.weight,
                                    histories.next_items(), backend=backend)


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
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 20, 1.0) * (1 - step / steps))
    records = []
    for step in range(steps):
        histories = generate(world, users, seed + step).to(device)
        optimizer.zero_grad()
        loss = model.loss(histories, backend)
        loss.backward()
        optimizer.step()
        schedule.step()
        records.append(RecommenderStep(step, loss.item(), len(histories.items) - users))
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
    target, logits, last = following[kept], scores[kept], histories.items[kept]
    truth = torch.cat([probabilities(world, items, seconds) for items, seconds in histories.users()])
    is_long = torch.cat([world.is_long(seconds.diff()) for _, seconds in histories.users()])
    right, best = (logits.argmax(-1) == target).float(), (truth.argmax(-1) == target).float()
    return Score(
        accuracy=right.mean().item(), popular=(target == target.mode().values).float().mean().item(),
        repeat=(target == last).float().mean().item(), best=best.mean().item(),
        loss=F.cross_entropy(logits, target).item(),
        best_loss=F.nll_loss(truth.log(), target).item(),
        after_long_gap=right[is_long].mean().item(), best_after_long_gap=best[is_long].mean().item())
