"""User histories whose structure is known, so that the best possible recommender can be computed.

    gap to next event     what the user takes next                          a model needs
    short (10 s - 1 min)  the successor of the last item (a series)         the last item, and time
    long  (6 h - 2 days)  any item of their own history, each equally       counts over the history
    either, with chance   an item at random by popularity (Zipf)            nothing: it is noise
    `noise`

The time of the next event is known when it is predicted, as at serving time: the user is there now.
Given history and gap, every item's probability is a closed formula (`probabilities`), and no
recommender can be right more often than the mean of the largest one. The middle rule is Polya's
urn: it rewards knowing *how often*, which attention without softmax keeps. Notebook 10b.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from aiinfra.config import config
from aiinfra.model.recommender import Histories

_LONG_SECONDS, _SHORT_SECONDS = 6 * 3600, 10          # the least of each kind of gap


@config
class World:
    """The rules of a made-up shop. `seed` draws which item follows which."""

    items: int = 50
    noise: float = 0.1
    long_gap: float = 0.4          # chance that the next event comes after a long gap
    shortest: int = 8              # events in a history
    longest: int = 24
    seed: int = 0

    @property
    def popularity(self) -> Tensor:
        """[V], Zipf: item i is taken in proportion to 1 / (i + 1)."""
        ranks = torch.arange(1, self.items + 1)
        weights = 1.0 / ranks
        return weights / weights.sum()

    @property
    def successor(self) -> Tensor:
        """[V]: the item that continues each item; a permutation."""
        random = torch.Generator().manual_seed(self.seed)
        return torch.randperm(self.items, generator=random)

    @staticmethod
    def is_long(gap_seconds: Tensor) -> Tensor:
        """Which gaps are long: six hours or more."""
        return gap_seconds >= _LONG_SECONDS


def generate(world: World, users: int, seed: int) -> Histories:
    """`users` histories drawn by the rules of `world`; the same for the same seed."""
    random = torch.Generator().manual_seed(seed)
    successor, popularity = world.successor, world.popularity

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=random)

    def popular() -> Tensor:
        return torch.multinomial(popularity, users, replacement=True, generator=random)
    items = torch.empty(users, world.longest, dtype=torch.int64)
    items[:, 0] = popular()
    is_long = uniform(users, world.longest) < world.long_gap            # the gap before each event
    for t in range(1, world.longest):
        when = (uniform(users, 1) * t).long()                           # any of the t events before
        earlier = items.gather(1, when).squeeze(1)
        follows = successor[items[:, t - 1]]
        chosen = torch.where(is_long[:, t], earlier, follows)
        is_noise = uniform(users) < world.noise
        items[:, t] = torch.where(is_noise, popular(), chosen)
    # log-uniform, so that every octave of time is as likely as every other
    span = uniform(users, world.longest)
    long_gaps, short_gaps = _LONG_SECONDS * 8.0 ** span, _SHORT_SECONDS * 6.0 ** span
    gaps = torch.where(is_long, long_gaps, short_gaps).long()
    seconds = gaps.cumsum(1)
    lengths = torch.randint(world.shortest, world.longest + 1, (users,), generator=random)
    kept = torch.arange(world.longest) < lengths[:, None]               # [users, longest]
    ends = lengths.cumsum(0)
    offsets = torch.cat((torch.zeros(1), ends)).int()
    return Histories(items[kept], seconds[kept], offsets)


def probabilities(world: World, items: Tensor, seconds: Tensor) -> Tensor:
    """[T, V]: the true chance of each item at events 1 .. T of one history of T + 1 events.

    Row t is conditioned on items[: t + 1] and on the gap to event t + 1, and on nothing later.
    """
    past = items[:-1]                                                             # [T]
    counts = F.one_hot(past, world.items).float().cumsum(0)                       # [T, V]
    share = counts / torch.arange(1, len(items))[:, None]
    follows = F.one_hot(world.successor[past], world.items).float()
    is_long = world.is_long(seconds.diff())[:, None]
    rule = torch.where(is_long, share, follows)
    return (1 - world.noise) * rule + world.noise * world.popularity
