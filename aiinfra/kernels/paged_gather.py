"""Attention over a paged cache without a kernel of our own: gather a request's blocks, then PyTorch's attention.

    once a step    block tables, lengths ──> Fetch: which rows of q, which slots of the cache, which mask
    every layer    k, v = cache[slots];  out[rows] = softmax(q[rows]·kᵀ/√Dh + mask)·v

This is the reference of kernels/paged_attention.py and what the engine runs on a CPU. A gather copies, so
it would cost a second trip to memory if it were made for all requests at once; made for a few of similar
length, the copy is still in the CPU's cache when attention reads it. Notebook 13.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_GROUP = 8                # requests fetched together


@dataclass(frozen=True)
class Fetch:
    """What PyTorch's attention needs to serve some requests with equally many new tokens each. The same in
    every layer, so an engine plans it once a step."""

    rows: Tensor                # int64 [b · T]: their rows of q
    slots: Tensor               # int64 [b · S]: where their keys lie; a shorter request repeats its last
    requests: int               # b
    mask: Tensor | None         # what to add to the scores: [b, 1, 1, S], or [T, S] for one request
    causal: bool


def plan_fetches(tables: list[list[int]], keys: list[int], starts: list[int], block_size: int,
                 device: torch.device) -> list[Fetch]:
    """Requests with one new token go in groups of similar length: little padding, and a group's keys stay in
    the CPU's cache between being gathered and being used. Others go one by one. As `paged_attention`:
    tables' rows, context lengths, and B + 1 starts."""
    news = [starts[b + 1] - starts[b] for b in range(len(keys))]
    single = sorted((b for b in range(len(keys)) if news[b] == 1 and keys[b]), key=keys.__getitem__)
    groups = [single[i:i + _GROUP] for i in range(0, len(single), _GROUP)]
    groups += [[b] for b in range(len(keys)) if news[b] > 1 and keys[b]]
    return [_fetch([tables[b] for b in group], [keys[b] for b in group], [starts[b] for b in group],
                   news[group[0]], block_size, device) for group in groups]


def _fetch(tables: list[list[int]], keys: list[int], starts: list[int], new: int, P: int, device) -> Fetch:
    longest = max(keys)
    width = -(-longest // P)
    table = torch.tensor([table[:width] + [0] * (width - len(table)) for table in tables], device=device)
    every, last = torch.arange(longest, device=device), torch.tensor(keys, device=device)[:, None] - 1
    key = torch.minimum(every, last)                                                      # [b, S]
    slots = table.gather(1, key // P) * P + key % P
    rows = torch.tensor([start + i for start in starts for i in range(new)], device=device)
    hidden = None
    if new > 1 and longest > new:                       # PyTorch aligns is_causal to the first key, not the last
        hidden = every > torch.arange(longest - new, longest, device=device)[:, None]     # [T, S]
    elif min(keys) < longest:
        hidden = (every > last)[:, None, None]                                            # [b, 1, 1, S]
    mask = None if hidden is None else torch.zeros(hidden.shape, device=device).masked_fill(hidden, -torch.inf)
    return Fetch(rows, slots.flatten(), len(keys), mask, causal=new > 1 and mask is None)


def attend_fetched(q: Tensor, k_cache: Tensor, v_cache: Tensor, fetches: list[Fetch], scale: float) -> Tensor:
    """Attention of q [N, H, Dh] over gathered keys, by PyTorch's fused attention; rows of no fetch are 0."""
    (N, H, Dh), K = q.shape, k_cache.shape[2]
    out = torch.zeros_like(q) if sum(len(f.rows) for f in fetches) < N else torch.empty_like(q)
    for f in fetches:
        k, v = (cache.flatten(0, 1).index_select(0, f.slots).view(f.requests, -1, K, Dh).transpose(1, 2)
                for cache in (k_cache, v_cache))                                          # [b, K, S, Dh]
        mask = f.mask if f.mask is None else f.mask.to(q.dtype)
        rows = q.index_select(0, f.rows)
        if len(f.rows) == f.requests:                   # the heads of a group stand where a sequence's rows would
            y = F.scaled_dot_product_attention(rows.view(f.requests, K, H // K, Dh), k, v, attn_mask=mask, scale=scale)
            y = y.reshape(-1, H, Dh)
        else:
            y = F.scaled_dot_product_attention(rows.transpose(0, 1)[None], k, v, attn_mask=mask, scale=scale,
                                               is_causal=f.causal, enable_gqa=H != K)[0].transpose(0, 1)
        out.index_copy_(0, f.rows, y)
    return out
