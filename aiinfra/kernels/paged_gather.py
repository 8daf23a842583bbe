"""Attention over a paged cache without a kernel of our own, from what PyTorch has for a CPU.

    once a step    block tables, lengths ──> what to fetch: which rows of q, which rows of the cache, which mask
    every layer    one new token each, a group of requests at a time:
                       p = softmax(q · k[keys]ᵀ/√Dh + mask);  out = Σ p · v[keys], summed where the values lie
                   several new tokens, one request at a time:
                       k, v = cache[slots];  out = softmax(q · kᵀ/√Dh + mask) · v

This is the reference of kernels/paged_attention.py and what the engine runs on a CPU. Keys are gathered, for
that is what a matrix product reads; gathered for a few requests of similar length they are still in the CPU's
cache when it does. Values need no gathering: a weighted sum of rows that lie anywhere is an embedding bag.
Notebook 13.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_GROUP = 16               # requests with one new token that are fetched together


@dataclass(frozen=True)
class Singles:
    """Requests with one new token each, b of them. Rows of the cache are those of [slots · K, Dh]. The same in every
    layer, so an engine plans it once a step."""

    rows: Tensor                # int64 [b]: their rows of q
    keys: Tensor                # int64 [b · K · S]: where their keys lie; a shorter request repeats its last
    values: Tensor              # int32 [b · H · S]: where the values lie that each query head adds up
    starts: Tensor              # int32 [b · H]: where each head's sum starts in `values`
    mask: Tensor                # what to add to the scores: [b · K, 1, S]


@dataclass(frozen=True)
class Several:
    """One request with T new tokens."""

    rows: slice                 # its rows of q
    slots: Tensor               # int64 [S]: where its keys and values lie
    mask: Tensor | None         # what to add to the scores: [T, S]; None: causal


def plan_fetches(tables: list[list[int]], keys: list[int], starts: list[int], block_size: int, heads: int, kv_heads: int,
                 device: torch.device) -> list[Singles | Several]:
    """What to fetch for every request that has new tokens; a group's lengths are similar, so there is little
    padding. As `paged_attention`: tables' rows, context lengths, and B + 1 starts."""
    news = [starts[b + 1] - starts[b] for b in range(len(keys))]
    order = sorted((b for b in range(len(keys)) if news[b] == 1 and keys[b]), key=keys.__getitem__)
    groups = [order[i:i + _GROUP] for i in range(0, len(order), _GROUP)]
    return [*(_singles([tables[b] for b in group], [keys[b] for b in group], [starts[b] for b in group],
                       block_size, heads, kv_heads, device) for group in groups),
            *(_several(tables[b], keys[b], starts[b], news[b], block_size, device)
              for b in range(len(keys)) if news[b] > 1 and keys[b])]


def _singles(tables: list[list[int]], keys: list[int], rows: list[int], P: int, H: int, K: int, device) -> Singles:
    b, longest = len(keys), max(keys)
    width = -(-longest // P)
    table = torch.tensor([table[:width] + [0] * (width - len(table)) for table in tables], device=device)
    every, last = torch.arange(longest, device=device), torch.tensor(keys, device=device)[:, None] - 1
    key = torch.minimum(every, last)                                                      # [b, S]
    slots = table.gather(1, key // P) * P + key % P
    at = slots[:, None] * K + torch.arange(K, device=device)[:, None]                     # [b, K, S]
    mask = torch.zeros(b, longest, device=device).masked_fill(every > last, -torch.inf)
    return Singles(torch.tensor(rows, device=device), at.flatten(), at.int().repeat_interleave(H // K, 1).flatten(),
                   torch.arange(0, b * H * longest, longest, dtype=torch.int32, device=device),
                   mask.repeat_interleave(K, 0)[:, None])


def _several(table: list[int], keys: int, start: int, new: int, P: int, device) -> Several:
    key = torch.arange(keys, device=device)
    slots = torch.tensor(table, device=device)[key // P] * P + key % P
    mask = None
    if keys > new:                                      # PyTorch aligns is_causal to the first key, not the last
        hidden = key > torch.arange(keys - new, keys, device=device)[:, None]
        mask = torch.zeros(hidden.shape, device=device).masked_fill(hidden, -torch.inf)
    return Several(slice(start, start + new), slots, mask)


def attend_fetched(q: Tensor, k_cache: Tensor, v_cache: Tensor, fetches: list[Singles | Several], scale: float) -> Tensor:
    """Attention of q [N, H, Dh] over the caches [blocks, P, K, Dh]; rows of no fetch are 0."""
    out = torch.zeros_like(q)
    for f in fetches:
        if isinstance(f, Singles):
            out.index_copy_(0, f.rows, _attend_singles(q.index_select(0, f.rows), k_cache, v_cache, f, scale))
        else:
            out[f.rows] = _attend_several(q[f.rows], k_cache, v_cache, f, scale)
    return out


def _attend_singles(q: Tensor, k_cache: Tensor, v_cache: Tensor, f: Singles, scale: float) -> Tensor:
    b, H, Dh = q.shape
    K = k_cache.shape[2]
    k = k_cache.flatten(0, 2).index_select(0, f.keys).view(b * K, -1, Dh)                  # [b·K, S, Dh]
    q = q.view(b * K, H // K, Dh)                        # the heads of a group stand where a sequence's rows would
    if q.dtype.itemsize < 4:
        q, k = q.float(), k.float()
    p = torch.baddbmm(f.mask.to(q.dtype), q, k.transpose(1, 2), alpha=scale).softmax(-1)    # [b·K, H/K, S]
    y = F.embedding_bag(f.values, v_cache.flatten(0, 2), f.starts, mode="sum", per_sample_weights=p.to(v_cache.dtype).flatten())
    return y.view(b, H, Dh)


def _attend_several(q: Tensor, k_cache: Tensor, v_cache: Tensor, f: Several, scale: float) -> Tensor:
    k, v = (cache.flatten(0, 1).index_select(0, f.slots).transpose(0, 1)[None] for cache in (k_cache, v_cache))
    return F.scaled_dot_product_attention(
        q.transpose(0, 1)[None], k, v, attn_mask=None if f.mask is None else f.mask.to(q.dtype), is_causal=f.mask is None,
        scale=scale, enable_gqa=q.shape[1] != k.shape[1])[0].transpose(0, 1)
