"""Attention over a paged cache without a kernel of our own, from what PyTorch has for a CPU.

    once a step    block tables, lengths ──> what each row of q meets: rows of the cache, and a mask
    every layer    one new token each, all requests at once, keys and values read where they lie:
                       s = q · k[keys]ᵀ/√Dh          a product at chosen places only ("sampled")
                       out = Σ softmax(s) · v[keys]  a weighted sum of chosen rows ("embedding bag")
                   several new tokens, one request at a time, keys and values copied together:
                       k, v = cache[slots];  out = softmax(q · kᵀ/√Dh + mask) · v

This is the reference of kernels/paged_attention.py and what the engine runs on a CPU. Several new tokens
share their request's keys, and a dense product earns the copy back; a single one uses each key once. Values
may be narrower than keys, as a view of their first part: a latent cache (MLA). Notebook 13.
"""

import warnings
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_PADDING = 1.5       # requests are padded to one length while that makes at most half as many keys again


@dataclass(frozen=True)
class _Request:
    """One request that has new tokens."""

    table: list[int]            # its blocks of the cache
    keys: int                   # S: its context, the new tokens included
    row: int                    # its first row of q
    new: int                    # T: its new tokens, which are so many rows


@dataclass(frozen=True)
class Singles:
    """All requests with one new token. The same in every layer, so an engine plans it once a step."""

    # CSR [N · H, slots · K]: the cache's rows that each head meets. A layer writes its scores into it.
    meets: Tensor
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
    # The product at chosen places exists on a CPU only, and not for the small types.
    sampled = cache.device.type == "cpu" and cache.dtype.itemsize >= 4
    single, fetches = [], []
    for table, n, start, end in zip(tables, keys, starts, starts[1:]):
        if not n or end == start:
            continue
        request = _Request(table=table, keys=n, row=start, new=end - start)
        if sampled and request.new == 1:
            single.append(request)
        else:
            fetches.append(_several(request, cache))
    if single:
        fetches.insert(0, _singles(single, starts[-1], heads, cache))
    return fetches


def _singles(requests: list[_Request], N: int, H: int, cache: Tensor) -> Singles:
    K = cache.shape[2]
    columns, masks = [], []
    widths = torch.zeros(N, dtype=torch.int32)               # keys that each row of q meets, padding included
    kv_head = torch.arange(K).repeat_interleave(H // K)[:, None]     # [H, 1]: the one that a query head reads
    for run in _of_similar_length(requests):
        longest = max(request.keys for request in run)
        last = torch.tensor([request.keys for request in run])[:, None] - 1
        every = torch.arange(longest)
        key = torch.minimum(every, last)                   # [b, S]: past its end a request meets its last key
        slots = _slots(run, key, cache)
        columns.append((slots[:, None] * K + kv_head).int().flatten())
        # The repeated last keys must weigh nothing.
        past_the_end = (every > last)[:, None]
        masks.append(cache.new_zeros(len(run), 1, longest).masked_fill(past_the_end, -torch.inf))
        widths[[request.row for request in run]] = longest
    per_head = widths.repeat_interleave(H).cumsum(0, dtype=torch.int32)
    ends = F.pad(per_head, (1, 0))
    meets = torch.cat(columns)
    shape = (N * H, cache.shape[:3].numel())
    with warnings.catch_warnings():
        # PyTorch says once of the format that it is in beta state.
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
        scores = cache.new_zeros(len(meets))
        pattern = torch.sparse_csr_tensor(ends, meets, scores, shape, check_invariants=False)
    return Singles(pattern, masks)


def _slots(run: list[_Request], key: Tensor, cache: Tensor) -> Tensor:
    """Where in the cache the keys [b, S] of these requests lie: int64 [b, S]."""
    P = cache.shape[1]
    longest = max(request.keys for request in run)
    blocks = -(-longest // P)
    padded = [request.table[:blocks] + [0] * (blocks - len(request.table)) for request in run]
    return torch.tensor(padded).gather(1, key // P) * P + key % P


def _of_similar_length(requests: list[_Request]) -> list[list[_Request]]:
    """The requests, in their order, in runs that can be padded to one length."""
    runs, total, longest = [], 0, 0
    for request in requests:
        total += request.keys
        longest = max(longest, request.keys)
        if not runs or longest * (len(runs[-1]) + 1) > _PADDING * total:
            runs.append([])
            total = longest = request.keys
        runs[-1].append(request)
    return runs


def _several(request: _Request, cache: Tensor) -> Several:
    P = cache.shape[1]
    keys, new = request.keys, request.new
    key = torch.arange(keys, device=cache.device)
    table = torch.tensor(request.table, device=cache.device)
    slots = table[key // P] * P + key % P
    mask = None
    if keys > new:                                   # PyTorch aligns is_causal to the first key, not the last
        position = torch.arange(keys - new, keys, device=cache.device)[:, None]
        hidden = key > position                                                                # [T, S]
        mask = cache.new_zeros(hidden.shape).masked_fill(hidden, -torch.inf)
    return Several(rows=slice(request.row, request.row + new), slots=slots, mask=mask)


def attend_fetched(q: Tensor, k_cache: Tensor, v_cache: Tensor, fetches: list[Singles | Several],
                   scale: float) -> Tensor:
    """Attention of q [N, H, Dh] over the caches k [blocks, P, K, Dh] and v [blocks, P, K, Dv], without
    gradients: [N, H, Dv]. Where Dv < Dh, v is a view of the first part of k. Rows of no fetch are 0."""
    out = None
    empty = q.new_zeros(*q.shape[:-1], v_cache.shape[-1])
    for f in fetches:
        if isinstance(f, Singles):                 # stands first, and its result has a row for every one of q
            out = _attend_singles(q, k_cache, v_cache, f, scale)
            continue
        if out is None:
            out = empty
        out[f.rows] = _attend_several(q[f.rows], k_cache, v_cache, f, scale)
    return empty if out is None else out


def _attend_singles(q: Tensor, k_cache: Tensor, v_cache: Tensor, f: Singles, scale: float) -> Tensor:
    H, size = q.shape[1], v_cache.shape[-1]
    k = k_cache.flatten(0, 2)                                                                # [slots · K, Dh]
    # What is narrower lies in the keys: whole rows are added up, and the rest is cut off.
    v = v_cache.flatten(0, 2) if size == k.shape[-1] else k
    # In place: a fresh result would copy the pattern, too. beta=0 still multiplies the scores of the layer
    # before.
    torch.sparse.sampled_addmm(f.meets, q.flatten(0, 1), k.t(), beta=0, alpha=scale, out=f.meets)
    scores = f.meets.values().split([mask.numel() * H for mask in f.masks])
    weights = []
    for run, mask in zip(scores, f.masks):
        b, _, S = mask.shape
        run = run.view(b, H, S) + mask
        weights.append(run.softmax(-1).flatten())
    starts = f.meets.crow_indices()[:-1]
    out = F.embedding_bag(
        f.meets.col_indices(), v, starts, mode="sum", per_sample_weights=torch.cat(weights))    # [N · H, Dh]
    return out.view(q.shape)[..., :size]


def _attend_several(q: Tensor, k_cache: Tensor, v_cache: Tensor, f: Several, scale: float) -> Tensor:
    k = k_cache.flatten(0, 1).index_select(0, f.slots)                                          # [S, K, Dh]
    size = v_cache.shape[-1]
    v = v_cache.flatten(0, 1).index_select(0, f.slots) if size == k.shape[-1] else k
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))                                 # [1, heads, …, Dh]
    y = F.scaled_dot_product_attention(
        q, k, v, attn_mask=f.mask, is_causal=f.mask is None, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    return y[0].transpose(0, 1)[..., :size]
