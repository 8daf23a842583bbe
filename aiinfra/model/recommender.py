"""A small generative recommender: what comes next in a user's history, by HSTU layers.

    item ids ─► embedding ─► [ HSTU layer ] × L ─► norm ─► every item's score

    HSTU layer    U, V, Q, K = split(SiLU(Norm(X) W))          one projection, gated by SiLU
                  Y = X + W_o( U · Norm( attention(Q, K, V) ) )

Attention is pointwise SiLU with learned bias for distance in positions and in time
(kernels/hstu_attention.py); it replaces the feed-forward layer of a transformer as well, U being the
gate. Histories lie one after another in one row, without padding. No event sees the future or another user.
train/ has histories of known rules, and says how near to the best possible recommender this one comes.

Zhai et al. 2024, arXiv 2402.17152; Norm is RMSNorm here (the paper's is LayerNorm). Notebook 10b.
"""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aiinfra.config import config
from aiinfra.device import to_device
from aiinfra.kernels.cross_entropy import linear_cross_entropy
from aiinfra.kernels.hstu_attention import hstu_attention, naive_hstu
from aiinfra.kernels.hstu_bias import BUCKETS
from aiinfra.kernels.lang import pick_backend
from aiinfra.kernels.rmsnorm import rms_norm


@dataclass(frozen=True)
class Histories:
    """B users' events in one flat row of N: user b's are offsets[b] : offsets[b + 1]."""

    items: Tensor                  # [N] int64
    seconds: Tensor                # [N] int64, rising within a user
    offsets: Tensor                # [B + 1] int32

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def to(self, device: torch.device | str) -> "Histories":
        """The same histories on `device`. The CPU does not wait for a GPU."""
        device = torch.device(device)
        parts = (self.items, self.seconds, self.offsets)
        return Histories(*(to_device(values, values.dtype, device) for values in parts))

    def next_items(self) -> Tensor:
        """[N]: the item after each event, and -100 (which the loss ignores) after a user's last."""
        following = self.items.roll(-1)
        last = self.offsets[1:].long() - 1
        following[last] = -100
        return following

    def users(self) -> list[tuple[Tensor, Tensor]]:
        """Each user's (items, seconds)."""
        lengths = self.offsets.diff().tolist()
        return list(zip(self.items.split(lengths), self.seconds.split(lengths)))


@config
class RecommenderConfig:
    """Sizes of a recommender. `max_len` is the longest history, and n in attention's 1/n."""

    items: int = 50
    width: int = 32
    heads: int = 4
    layers: int = 2
    max_len: int = 24


class HSTULayer(nn.Module):
    """One layer, [N, D] -> [N, D], over histories without padding."""

    def __init__(self, config: RecommenderConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.max_len = config.max_len
        self.project = nn.Linear(config.width, 4 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.norm = nn.Parameter(torch.ones(config.width))
        self.attention_norm = nn.Parameter(torch.ones(config.width))
        # SiLU(0) is 0: a bias of 1 lets every earlier event count from the first step on
        self.position_table = nn.Parameter(torch.ones(config.heads, 2 * config.max_len - 1))
        self.time_table = nn.Parameter(torch.zeros(config.heads, BUCKETS))

    def forward(self, x: Tensor, histories: Histories, backend: str | None = None) -> Tensor:
        """x [N, D], one row an event of `histories`."""
        mixed = self.project(rms_norm(x, self.norm, backend=backend))
        u, v, q, k = F.silu(mixed).chunk(4, dim=-1)                                          # [N, D] each
        q, k, v = (t.unflatten(-1, (self.heads, -1)) for t in (q, k, v))                     # [N, H, Dh]
        if pick_backend(x, backend) == "torch":
            # All histories as one padded batch, not one by one: they are short.
            attend = partial(naive_hstu, one_hot=False)
        else:
            attend = partial(hstu_attention, backend=backend)
        tables = self.position_table, self.time_table
        seen = attend(q, k, v, histories.offsets, histories.seconds, *tables, max_len=self.max_len)
        seen = rms_norm(seen.flatten(1), self.attention_norm, backend=backend)               # [N, D]
        return x + self.out(u * seen)


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
        return self.mixed(self.embedding(histories.items), histories, backend)

    def mixed(self, x: Tensor, histories: Histories, backend: str | None = None) -> Tensor:
        """[N, D]: the same from the rows x [N, D] of the events' items, wherever the table is."""
        for layer in self.layers:
            x = layer(x, histories, backend)
        return rms_norm(x, self.norm, backend=backend)

    def forward(self, histories: Histories, backend: str | None = None) -> Tensor:
        """Scores [N, V] of the next item after each event."""
        return self.head(self.hidden(histories, backend))

    def loss(self, histories: Histories, backend: str | None = None) -> Tensor:
        """Mean cross-entropy of the next item over all events that have one."""
        known = self.hidden(histories, backend)
        return linear_cross_entropy(known, self.head.weight, histories.next_items(), backend=backend)
