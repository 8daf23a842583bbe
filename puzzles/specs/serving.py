"""What the serving puzzles draw and compute: slots, block tables over a shuffled pool, a decode step.

Notebook 13.
"""

from collections.abc import Iterator, Mapping

import torch

from puzzles.specs.made import Tensors

_EXP = 200
_GARBAGE = 1_000_000_000  # what lies behind the used part of a block table or slot list


def slots(tensors: Tensors, sizes: Mapping[str, float], rng: torch.Generator) -> Tensors:
    """Different slots for different tokens; every fourth is padding. The cache's last and first rows are the
    first two tokens' if N is a multiple of 3, and nobody's otherwise.
    """
    N, S = sizes["N"], sizes["S"]
    inner = 1 + torch.randperm(max(S - 2, 0), generator=rng)
    if N % 3 == 0:
        inner = torch.cat([torch.tensor([S - 1, 0]), inner])
    slots = (inner if S > 1 else torch.zeros(1))[:N].int()
    slots[3::4] = -1
    return tensors | dict(slot=slots)


def tokens_with_a_slot(tensors: Tensors, sizes: Mapping[str, float]) -> dict[str, int]:
    """How many values of new tokens a kernel must read: padding's are nobody's."""
    return dict(new=int((tensors["slot"] >= 0).sum()) * sizes["W"])


def experts_with_rows(tensors: Tensors, sizes: Mapping[str, float]) -> dict[str, int]:
    """How many weights a kernel must read: those of experts that have rows."""
    used = int((tensors["offset"].diff() > 0).sum())
    return dict(w=used * sizes["D"] * sizes["F"])


def paged(tensors: Tensors, sizes: Mapping[str, float], rng: torch.Generator) -> Tensors:
    """Block tables over a shuffled pool that begins with the last and the first block; garbage behind them.

    The first request fills all its blocks, the second two but not the last of them, the third has one token.
    Slots without a token hold NaN: an unmasked load of values makes 0 * NaN of them.
    """
    B, P, NB, T = sizes["B"], sizes["P"], sizes["NB"], sizes["T"]
    table = torch.full((B, T), _GARBAGE, dtype=torch.int32)
    inner = 1 + torch.randperm(NB - 2, generator=rng)
    pool = torch.cat([torch.tensor([NB - 1, 0]), inner]).int()
    length = torch.empty(B, dtype=torch.int32)
    for b in range(B):
        used = (T, min(2, T), 1, int(torch.randint(1, T + 1, (1,), generator=rng)))[min(b, 3)]
        table[b, :used] = pool[:used]
        pool = pool.roll(-used)
        filled = (P, int(torch.randint(1, P, (1,), generator=rng)), 1)[b % 3]
        length[b] = (used - 1) * P + filled
    taken = torch.zeros(NB * P, dtype=torch.bool)
    for b in range(B):
        taken[_slots_of(table, length, b, P)] = True
    caches = {name: _emptied(tensors[name], ~taken) for name in ("k_cache", "v_cache")}
    return tensors | caches | dict(table=table, length=length)


def entries(tensors: Tensors, sizes: Mapping[str, float]) -> dict[str, int]:
    """How many entries of its block table a kernel must read."""
    return dict(table=int((-(-tensors["length"] // sizes["P"])).sum()))


def _slots_of(table: torch.Tensor, length: torch.Tensor, b: int, P: int) -> torch.Tensor:
    """The slots in which request b's tokens lie, in order."""
    position = torch.arange(int(length[b]))
    return table[b, position // P].long() * P + position % P


def _emptied(cache: torch.Tensor, unused: torch.Tensor) -> torch.Tensor:
    """A copy of a [NB, P, K, D] cache with NaN in its unused slots."""
    rows = cache.flatten(0, 1).clone()
    rows[unused] = torch.nan
    return rows.view_as(cache)


def request(k_cache: torch.Tensor, v_cache: torch.Tensor, table: torch.Tensor, length: torch.Tensor,
            b: int, P: int) -> Iterator[torch.Tensor]:
    """The keys and values of request b, [length, K, D], gathered from their blocks."""
    slots = _slots_of(table, length, b, P)
    return (cache.flatten(0, 1)[slots] for cache in (k_cache, v_cache))


def decode(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sm_scale: float,
           group: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """One query a head over [S, K, D] keys: o [H, D], lse [H], o's error size, how errors grow."""
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = torch.einsum("hd,shd->hs", q, k) * sm_scale
    size = torch.einsum("hd,shd->hs", q.abs(), k.abs()) * sm_scale
    p = torch.softmax(scores, 1)
    o, o_size = torch.einsum("hs,shd->hd", p, v), torch.einsum("hs,shd->hd", p, v.abs())
    return o, torch.logsumexp(scores, 1), o_size, _EXP + int(2 * q.shape[1] * size.max())
