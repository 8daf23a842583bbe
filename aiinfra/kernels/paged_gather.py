"""Attention over a paged cache without a kernel of our own, from what PyTorch has for a CPU.

    once a step    block tables, lengths ──> what each row of q meets: rows of the cache, and a mask
    every layer    one new token each, all requests at once, keys and values read where they lie:
                       s = q · k[keys]ᵀ/√Dh          a product at chosen places only ("sampled")
                       out = Σ softmax(s) · v[keys]  a weighted sum of chosen rows ("embedding bag")
                   several new tokens, one request at a time, keys and values copied together:
                       k, v = cache[slots];  out = softmax(q · kᵀ/√Dh + mask) · v

This is the reference of kernels/paged_attention.py and what the engine runs on a CPU. Several new tokens share
their request's keys, and a dense product earns the copy back; a single one uses each key once. Notebook 13.
"""

import warnings
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_PADDING = 1.5       # requests are padded to one length while that makes at most half as many keys again


@dataclass(frozen=True)
class Singles:
    """All requests with one new token. The same in every layer, so an engine plans it once a step."""

    meets: Tensor               # CSR [N · H, slots · K]: the cache's rows that each head meets; a layer writes its scores there
    masks: list[Tensor]         # what to add to the scores of b neighbours padded to S keys: [b, 1, S]


@dataclass(frozen=True)
class Several:
    """One request with T new tokens."""

    rows: slice                 # its rows of q
    slots: Tensor               # int64 [S]: where its keys and values lie
    mask: Tensor | None         # what to add to the scores: [T, S]; None: causal


def plan_fetches(tables: list[list[int]], keys: list[int], starts: list[int], heads: int,
                 cache: Tensor) -> list[Singles | Several]:
    """What to fetch from caches like `cache` [blocks, P, K, Dh] for every request that has new tokens. As
    `paged_attention`: tables' rows, context lengths, and B + 1 starts; `heads`: of q."""
    requests = [(table, n, start, end - start) for table, n, start, end in zip(tables, keys, starts, starts[1:])
                if n and end > start]
    sampled = cache.device.type == "cpu" and cache.dtype.itemsize >= 4             # the product has no others
    single = [request for request in requests if request[3] == 1 and sampled]
    fetches = [_several(*request, cache) for request in requests if request[3] > 1 or not sampled]
    return [_singles(single, starts[-1], heads, cache), *fetches] if single else fetches


def _singles(requests: list[tuple], N: int, H: int, cache: Tensor) -> Singles:
    P, K = cache.shape[1:3]
    columns, masks, widths = [], [], torch.zeros(N, dtype=torch.int32)
    for run in _of_similar_length(requests):
        tables, keys, rows, _ = zip(*run)
        longest = max(keys)
        blocks = -(-longest // P)
        table = torch.tensor([table[:blocks] + [0] * (blocks - len(table)) for table in tables])
        every, last = torch.arange(longest), torch.tensor(keys)[:, None] - 1
        key = torch.minimum(every, last)                         # [b, S]: past its end a request meets its last key
        slots = table.gather(1, key // P) * P + key % P
        masks.append(cache.new_zeros(len(run), 1, longest).masked_fill((every > last)[:, None], -torch.inf))  # for nothing
        columns.append((slots[:, None] * K + torch.arange(K).repeat_interleave(H // K)[:, None]).int().flatten())
        widths[list(rows)] = longest
    ends = F.pad(widths.repeat_interleave(H).cumsum(0, dtype=torch.int32), (1, 0))
    meets = torch.cat(columns)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")           # said once, of the format
        return Singles(torch.sparse_csr_tensor(ends, meets, cache.new_zeros(len(meets)), (N * H, cache.shape[:3].numel()),
                                               check_invariants=False), masks)


def _of_similar_length(requests: list[tuple]) -> list[list[tuple]]:
    """The requests, in their order, in runs that can be padded to one length."""
    runs, total, longest = [], 0, 0
    for request in requests:
        total, longest = total + request[1], max(longest, request[1])
        if not runs or longest * (len(runs[-1]) + 1) > _PADDING * total:
            runs.append([])
            total = longest = request[1]
        runs[-1].append(request)
    return runs


def _several(table: list[int], keys: int, start: int, new: int, cache: Tensor) -> Several:
    P = cache.shape[1]
    key = torch.arange(keys, device=cache.device)
    slots = torch.tensor(table, device=cache.device)[key // P] * P + key % P
    mask = None
    if keys > new:                                      # PyTorch aligns is_causal to the first key, not the last
        hidden = key > torch.arange(keys - new, keys, device=cache.device)[:, None]
        mask = cache.new_zeros(hidden.shape).masked_fill(hidden, -torch.inf)
    return Several(slice(start, start + new), slots, mask)


def attend_fetched(q: Tensor, k_cache: Tensor, v_cache: Tensor, fetches: list[Singles | Several], scale: float) -> Tensor:
    """Attention of q [N, H, Dh] over the caches [blocks, P, K, Dh], without gradients; rows of no fetch are 0."""
    out = None
    for f in fetches:
        if isinstance(f, Singles):
            out = _attend_singles(q, k_cache, v_cache, f, scale)
        else:
            out = torch.zeros_like(q) if out is None else out
            out[f.rows] = _attend_several(q[f.rows], k_cache, v_cache, f, scale)
    return torch.zeros_like(q) if out is None else out


def _attend_singles(q: Tensor, k_cache: Tensor, v_cache: Tensor, f: Singles, scale: float) -> Tensor:
    k, v = k_cache.flatten(0, 2), v_cache.flatten(0, 2)                                         # [slots · K, Dh]
    # In place: a fresh result would copy the pattern, too. beta=0 still multiplies the scores of the layer before.
    torch.sparse.sampled_addmm(f.meets, q.flatten(0, 1), k.t(), beta=0, alpha=scale, out=f.meets)
    runs = f.meets.values().split([mask.numel() * q.shape[1] for mask in f.masks])
    p = torch.cat([(run.view(len(mask), -1, mask.shape[-1]) + mask).softmax(-1).flatten() for run, mask in zip(runs, f.masks)])
    return F.embedding_bag(f.meets.col_indices(), v, f.meets.crow_indices()[:-1], mode="sum",
                           per_sample_weights=p).view(q.shape)


def _attend_several(q: Tensor, k_cache: Tensor, v_cache: Tensor, f: Several, scale: float) -> Tensor:
    k, v = (cache.flatten(0, 1).index_select(0, f.slots).transpose(0, 1)[None] for cache in (k_cache, v_cache))
    return F.scaled_dot_product_attention(
        q.transpose(0, 1)[None], k, v, attn_mask=f.mask, is_causal=f.mask is None,
        scale=scale, enable_gqa=q.shape[1] != k.shape[1])[0].transpose(0, 1)
