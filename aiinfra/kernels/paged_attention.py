"""Attention over a paged KV cache: decode and chunked prefill through one call.

    block_tables[b]  4 7 1 .      request b's keys 0…P-1 lie in block 4, the next P in block 7, …
    context_lens[b]  37           keys it has, the new tokens' own included
    cu_seqlens_q     [B+1]        where its new tokens start in q; None: one new token each (decode)

New token i of T sees keys 0 … context_len - T + i, so a prompt may arrive in any number of chunks.
Reading the cache is all the cost of a decode step, and each key serves only the G = H / K query heads
of its group. So the G heads (times the tokens, in prefill) are stacked as the rows of one tile: a key
is read once for all of them. Few requests with long contexts would leave most of the GPU idle, so each
context is cut in `splits` parts and a second kernel merges them:

    part s: out_s, lse_s      out = sum_s 2^(lse_s - m) out_s / sum_s 2^(lse_s - m),  m = max_s lse_s

The grid depends on shapes alone and nothing is read back, so a CUDA graph can hold the call; a
request with context length 0 gives 0. Kwon et al. 2023, arXiv 2309.06180; Dao et al. 2023,
"Flash-Decoding". Notebook 13.

A latent cache (DeepSeek's MLA) has one row of R + Dr values a token, and all heads read it: the whole row is
the key, its first R the value, which is therefore loaded once for both. Notebook 17.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from aiinfra.kernels.chip import arch_of, large_shared, multiprocessors_of
from aiinfra.kernels.lang import pick_backend, tl, triton
from aiinfra.kernels.operators import launch, operator, same_memory
from aiinfra.kernels.paged_gather import attend_fetched, plan_fetches
from aiinfra.perf.cost import Cost

_MAX_HEAD_SIZE, _MAX_SPLITS = 128, 64
_MAX_LATENT, _MAX_LATENT_SPLITS, _LATENT_HEADS = 512, 16, 16      # heads: that one program serves at most


def paged_attention_reference(q: Tensor, k_cache: Tensor, v_cache: Tensor, block_tables: Tensor,
                              context_lens: Tensor, cu_seqlens_q: Tensor | None = None,
                              scale: float | None = None) -> Tensor:
    """What `paged_attention` computes, on gathered keys."""
    keys = context_lens.tolist()
    starts = list(range(len(keys) + 1)) if cu_seqlens_q is None else cu_seqlens_q.tolist()
    fetches = plan_fetches(block_tables.tolist(), keys, starts, q.shape[1], k_cache)
    out = attend_fetched(q[:starts[-1]], k_cache, v_cache, fetches,
                         q.shape[-1] ** -0.5 if scale is None else scale)
    return F.pad(out, (0, 0, 0, 0, 0, len(q) - len(out)))


@triton.jit
def _find_request(cu_ptr, requests, tile, TOKENS: tl.constexpr):
    """The request whose tiles include `tile`, by bisection. Request b has tiles from
    cu[b] // TOKENS + b: always enough for its tokens, at most one too many."""
    low, high = 0 * requests, requests                    # the answer is in low … high - 1
    while high - low > 1:
        middle = (low + high) // 2
        if tl.load(cu_ptr + middle) // TOKENS + middle <= tile:
            low = middle
        else:
            high = middle
    return low


@triton.jit
def _attend(acc, m, l, q, q_rest, k_ptr, v_ptr, table_ptr, cache_row, lo, hi, last_key, scale_log2,
            MASKED: tl.constexpr, P: tl.constexpr, DH: tl.constexpr, DP: tl.constexpr, REST: tl.constexpr,
            RP: tl.constexpr, BN: tl.constexpr):
    """Let q's rows see keys lo:hi of the request; `last_key` [BM] is the last that each row may see. With
    REST, keys are their values and so many more."""
    dim = tl.arange(0, DP)
    rest = tl.arange(0, RP)
    for start in tl.range(lo, hi, BN):
        key = start + tl.arange(0, BN)
        if MASKED:
            block = tl.load(table_ptr + key // P, mask=key < hi, other=0)
        else:
            block = tl.load(table_ptr + key // P)
        row = (block.to(tl.int64) * P + key % P)[:, None] * cache_row
        at = row + dim[None, :]                                                           # [BN, DP]
        if MASKED or DP != DH:
            inside = (key < hi)[:, None] & (dim < DH)[None, :]
            k = tl.load(k_ptr + at, mask=inside, other=0.0)
            v = k if REST else tl.load(v_ptr + at, mask=inside, other=0.0)
        else:
            k = tl.load(k_ptr + at)
            v = k if REST else tl.load(v_ptr + at)
        s = tl.dot(q, tl.trans(k), input_precision="ieee")                                # [BM, BN]
        if REST:
            inside = (key < hi)[:, None] & (rest < REST)[None, :]
            k_rest = tl.load(k_ptr + row + DH + rest[None, :], mask=inside, other=0.0)
            s = tl.dot(q_rest, tl.trans(k_rest), s, input_precision="ieee")
        s = s * scale_log2
        if MASKED:
            s = tl.where(key[None, :] <= last_key[:, None], s, -float("inf"))
        m_new = tl.maximum(m, tl.max(s, 1))
        base = tl.where(m_new == -float("inf"), 0.0, m_new) if MASKED else m_new
        p = tl.math.exp2(s - base[:, None])
        shrink = tl.math.exp2(m - base)
        l = l * shrink + tl.sum(p, 1)
        acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None], input_precision="ieee")
        m = m_new
    return acc, m, l


# What changes from step to step is no constant: each new value would be compiled anew.
@triton.jit(do_not_specialize=["requests", "table_row", "splits"])
def _attention_kernel(q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, table_ptr, context_ptr, cu_ptr, requests,
                      q_row, q_head, out_row, out_head, cache_row, cache_head, table_row, splits, scale_log2,
                      GROUP: tl.constexpr, TOKENS: tl.constexpr, DECODE: tl.constexpr, SPLIT: tl.constexpr,
                      P: tl.constexpr, DH: tl.constexpr, DP: tl.constexpr, REST: tl.constexpr,
                      RP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    # Heads vary fastest: programs that run together read neighbouring heads of the same tokens.
    kv_head = tl.program_id(0)
    if DECODE:
        request, split, token0 = tl.program_id(2), tl.program_id(1), 0
        q0, tokens = request, 1
    else:
        tile, split = tl.program_id(1), 0
        request = _find_request(cu_ptr, requests, tile, TOKENS)
        q0 = tl.load(cu_ptr + request)
        tokens = tl.load(cu_ptr + request + 1) - q0
        token0 = (tile - q0 // TOKENS - request) * TOKENS
        if token0 >= tokens:
            return
    keys = tl.load(context_ptr + request)
    row, dim = tl.arange(0, BM), tl.arange(0, DP)
    token, head = token0 + row // GROUP, kv_head * GROUP + row % GROUP        # a tile's rows: token-major
    valid = (row < TOKENS * GROUP) & (token < tokens)
    inside = valid[:, None] & (dim < DH)[None, :]
    q_at = (q0 + token).to(tl.int64) * q_row + head * q_head
    q = tl.load(q_ptr + q_at[:, None] + dim[None, :], mask=inside, other=0.0)
    q_rest = q
    if REST:
        rest = tl.arange(0, RP)
        q_rest = tl.load(q_ptr + q_at[:, None] + DH + rest[None, :],
                         mask=valid[:, None] & (rest < REST)[None, :], other=0.0)
    last_key = keys - tokens + token
    end = tl.minimum(keys, tl.maximum(keys - tokens + token0 + TOKENS, 0))
    full = tl.minimum(keys, tl.maximum(keys - tokens + token0 + 1, 0)) // BN * BN   # seen by every row
    part = tl.cdiv(tl.cdiv(end, BN), splits) * BN
    lo, hi = split * part, tl.minimum(split * part + part, end)
    cut = tl.minimum(tl.maximum(full, lo), hi)
    table_ptr += request.to(tl.int64) * table_row
    k_ptr += kv_head * cache_head
    v_ptr += kv_head * cache_head
    m = tl.full([BM], -float("inf"), tl.float32)
    l = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, DP], tl.float32)
    if DECODE:                                # bound by memory: masking every block costs nothing
        cut = lo
    else:
        acc, m, l = _attend(acc, m, l, q, q_rest, k_ptr, v_ptr, table_ptr, cache_row, lo, cut, last_key,
                            scale_log2, False, P, DH, DP, REST, RP, BN)
    acc, m, l = _attend(acc, m, l, q, q_rest, k_ptr, v_ptr, table_ptr, cache_row, cut, hi, last_key,
                        scale_log2, True, P, DH, DP, REST, RP, BN)
    l = tl.where(l == 0.0, 1.0, l)                                            # no key seen: 0
    out_at = (q0 + token).to(tl.int64) * out_row + head * out_head
    if SPLIT:                                                                 # out is [B, H, splits, DH] here
        out_at += split * DH
        lse_at = ((q0 + token).to(tl.int64) * out_row + head * out_head) // DH + split
        tl.store(lse_ptr + lse_at, m + tl.math.log2(l), mask=valid)
    out = (acc / l[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + out_at[:, None] + dim[None, :], out, mask=inside)


@triton.jit(do_not_specialize=["splits"])
def _merge_kernel(part_ptr, lse_ptr, out_ptr, out_row, out_head, splits, H: tl.constexpr,
                  SP: tl.constexpr, DH: tl.constexpr, DP: tl.constexpr):
    """out[b, h] from its `splits` parts; SP is `splits` rounded up to a power of two."""
    request, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    split, dim = tl.arange(0, SP), tl.arange(0, DP)
    at = (request * H + head) * splits + split
    lse = tl.load(lse_ptr + at, mask=split < splits, other=-float("inf"))
    seen = lse > -float("inf")
    top = tl.max(tl.where(seen, lse, -1e30), 0)
    weight = tl.where(seen, tl.math.exp2(lse - top), 0.0)
    part = tl.load(part_ptr + at[:, None] * DH + dim[None, :], mask=seen[:, None] & (dim < DH)[None, :],
                   other=0.0)
    total = tl.sum(weight, 0)
    out = tl.sum(part * weight[:, None], 0) / tl.where(total == 0.0, 1.0, total)
    tl.store(out_ptr + request * out_row + head * out_head + dim, out.to(out_ptr.dtype.element_ty),
             mask=dim < DH)


def _tiling(group: int, head_size: int, value_bytes: int, arch: int, decode: bool) -> dict:
    """Tile sizes, warps and stages. The table of blocks is loaded two stages before its keys."""
    small = max(16, triton.next_power_of_2(group))        # rows that one token's heads need
    if arch == 0:
        sizes = (small, 16, 4, 1)
    elif value_bytes > 2:
        sizes = (small, 32, 4, 1)
    elif decode:
        sizes = (small, 32 if head_size > 64 else 64, 4, 5)
    elif not large_shared(arch):
        sizes = (max(64, small), 32, 4, 3)
    else:
        sizes = (max(128, small), 32 if arch < 90 and head_size > 64 else 64, 8, 5)
    return dict(zip(("BM", "BN", "num_warps", "num_stages"), sizes))


def _latent_tiling(group: int, value_bytes: int, arch: int, decode: bool) -> dict:
    """The same for rows of hundreds of values: few of them, so that sums stay in registers."""
    small = max(16, triton.next_power_of_2(group))
    if arch == 0:
        sizes = (small, 16, 4, 1)
    elif value_bytes > 2:
        sizes = (small, 16, 8, 1)
    elif decode or not large_shared(arch):
        sizes = (small, 16, 4, 2)
    else:
        sizes = (max(32, small), 32, 8, 2)
    return dict(zip(("BM", "BN", "num_warps", "num_stages"), sizes))


def _heads_together(heads: int) -> int:
    """Query heads that share a program over a latent cache: the most that divide them all."""
    return max(n for n in range(1, _LATENT_HEADS + 1) if heads % n == 0)


def _count_splits(programs: int, max_context: int, multiprocessors: int, most: int = _MAX_SPLITS) -> int:
    """Parts of each context so that every multiprocessor has about 8 programs of at least 128 keys."""
    wanted = triton.cdiv(8 * multiprocessors, max(programs, 1))
    return max(1, min(wanted, max_context // 128, most))


def paged_attention(q: Tensor, k_cache: Tensor, v_cache: Tensor, block_tables: Tensor, context_lens: Tensor,
                    cu_seqlens_q: Tensor | None = None, *, max_context: int | None = None,
                    scale: float | None = None, splits: int | None = None,
                    backend: str | None = None) -> Tensor:
    """Attention of the new tokens q [N, H, Dh] over each request's cached keys. Returns [N, H, Dv].

    k_cache, v_cache [blocks, P, K, Dh] contiguous, of q's dtype, H a multiple of K, with the new
    tokens' keys and values already written; or a latent cache: K = 1, and v_cache is k_cache[..., :Dv].
    block_tables int32 [B, max_blocks], context_lens int32
    [B], cu_seqlens_q int32 [B+1]. Without cu_seqlens_q every request has one new token and N = B.
    A row of a request of context length 0, or past cu_seqlens_q[B], is 0. Entries of a table past
    its context are never followed.

    `max_context` (default max_blocks * P) only guides into how many parts a decode splits each
    context; `splits` sets it. Neither changes the result beyond rounding. Raises ValueError if shapes
    or dtypes disagree, and on the Triton path for head sizes above 128 (latent: for Dv above 512).
    """
    backend = pick_backend(q, backend)
    _check(q, k_cache, v_cache, block_tables, context_lens, cu_seqlens_q, backend)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if backend == "torch":
        return paged_attention_reference(q, k_cache, v_cache, block_tables, context_lens, cu_seqlens_q, scale)
    q = q if q.stride(-1) == 1 else q.contiguous()
    return _attention(q, k_cache, v_cache, block_tables, context_lens, cu_seqlens_q, max_context, scale,
                      splits)


@operator("paged_attention")
def _attention(q: Tensor, k_cache: Tensor, v_cache: Tensor, block_tables: Tensor, context_lens: Tensor,
               cu_seqlens_q: Tensor | None, max_context: int | None, scale: float,
               splits: int | None) -> Tensor:
    """As `paged_attention`, for q adjacent along Dh."""
    (rows, heads, size), requests, decode = q.shape, len(context_lens), cu_seqlens_q is None
    P, kv_heads, value_size = *k_cache.shape[1:3], v_cache.shape[-1]
    rest = size - value_size
    make = torch.empty if decode else torch.zeros
    out = make(rows, heads, value_size, dtype=q.dtype, device=q.device)
    if not out.numel():
        return out
    group = _heads_together(heads) if rest else heads // kv_heads
    if rest:
        tiling = _latent_tiling(group, q.element_size(), arch_of(q), decode)
    else:
        tiling = _tiling(group, size, q.element_size(), arch_of(q), decode)
    programs = heads // group                             # for each request and split
    if not decode:
        splits = 1
    elif splits is None:
        splits = _count_splits(requests * programs, max_context or block_tables.shape[1] * P,
                               multiprocessors_of(q), _MAX_LATENT_SPLITS if rest else _MAX_SPLITS)
    part, lse = out, out
    if splits > 1:
        part = torch.empty(rows, heads, splits, value_size, dtype=torch.float32, device=q.device)
        lse = torch.empty(rows, heads, splits, dtype=torch.float32, device=q.device)
    tokens = 1 if decode else tiling["BM"] // group
    grid = (programs, splits, requests) if decode else (programs, rows // tokens + requests)
    padded = max(16, triton.next_power_of_2(value_size))
    launch(
        _attention_kernel, grid,
        q, k_cache, v_cache, part, lse, block_tables, context_lens, context_lens if decode else cu_seqlens_q,
        requests, *q.stride()[:2], *part.stride()[:2], kv_heads * size, 0 if rest else size,
        block_tables.stride(0), splits, scale * math.log2(math.e), GROUP=group, TOKENS=tokens, DECODE=decode,
        SPLIT=splits > 1, P=P, DH=value_size, DP=padded, REST=rest,
        RP=max(16, triton.next_power_of_2(rest)), **tiling)
    if splits > 1:
        launch(_merge_kernel, (rows, heads), part, lse, out, *out.stride()[:2], splits, H=heads,
               SP=triton.next_power_of_2(splits), DH=value_size, DP=padded)
    return out


def _check(q, k_cache, v_cache, block_tables, context_lens, cu_seqlens_q, backend) -> None:
    (rows, heads, size), requests = q.shape, len(context_lens)
    latent = _is_latent(k_cache, v_cache)
    two = k_cache.shape == v_cache.shape and v_cache.is_contiguous()
    if not (two or latent) or k_cache.shape[-1] != size or not k_cache.is_contiguous():
        raise ValueError(f"q is {tuple(q.shape)}, caches {tuple(k_cache.shape)} and {tuple(v_cache.shape)}; "
                         "pass q [N, H, Dh] and two contiguous [blocks, P, K, Dh] with one head size, or one "
                         "[blocks, P, 1, Dh] and a view of the first part of its rows.")
    if heads % k_cache.shape[2]:
        raise ValueError(f"{heads} query heads do not divide into {k_cache.shape[2]} key heads; "
                         "H must be a multiple of K.")
    if not q.dtype == k_cache.dtype == v_cache.dtype:
        raise ValueError(f"q is {q.dtype}, the caches {k_cache.dtype} and {v_cache.dtype}; convert q.")
    if len(block_tables) != requests or (cu_seqlens_q is None and rows != requests) or (
            cu_seqlens_q is not None and len(cu_seqlens_q) != requests + 1):
        raise ValueError(f"{rows} rows of q, {len(block_tables)} block tables, {requests} context lengths, "
                         f"cu_seqlens_q {None if cu_seqlens_q is None else tuple(cu_seqlens_q.shape)}; pass "
                         "a table and a length for each request, and [B+1] starts unless each has exactly "
                         "one row.")
    if backend == "triton" and latent and (v_cache.shape[-1] > _MAX_LATENT or
                                           size - v_cache.shape[-1] > _MAX_HEAD_SIZE):
        raise ValueError(f"latent rows are {v_cache.shape[-1]} and {size - v_cache.shape[-1]} values; the "
                         f"kernel's tiles hold at most {_MAX_LATENT} and {_MAX_HEAD_SIZE}. "
                         "Use backend='torch'.")
    if backend == "triton" and not latent and size > _MAX_HEAD_SIZE:
        raise ValueError(f"head size is {size}; the kernel's tiles hold at most {_MAX_HEAD_SIZE}. "
                         "Use backend='torch'.")


def _is_latent(k_cache: Tensor, v_cache: Tensor) -> bool:
    """True if the values are the first part of each key, of which there is one a token."""
    narrower = v_cache.shape[-1] < k_cache.shape[-1] and v_cache.shape[:-1] == k_cache.shape[:-1]
    same = same_memory(k_cache, v_cache) and v_cache.stride() == k_cache.stride()
    return narrower and same and k_cache.shape[2] == 1


def cost(context_lens: list[int], new_tokens: list[int], heads: int, kv_heads: int, head_size: int,
         bytes_per_value: float = 2, latent_size: int = 0) -> Cost:
    """Two products of 2 * Dh FLOPs a visible score; every cached key and value, q and out touched once. With
    a latent_size the value is so many of the key's values, and no tensor of its own."""
    scores = sum(new * keys - new * (new - 1) / 2 for keys, new in zip(context_lens, new_tokens))
    value_size = latent_size or head_size
    kept = head_size if latent_size else 2 * head_size
    values = sum(context_lens) * kv_heads * kept + sum(new_tokens) * heads * (head_size + value_size)
    return Cost(2.0 * (head_size + value_size) * heads * scores, values * bytes_per_value)


def compile_cases(arch: int) -> list[dict]:
    """What this file has to compile; see gpu/compile.py."""
    cases = []
    for kind, value_bytes, size, decode in (("bf16", 2, 64, True), ("bf16", 2, 128, True),
                                            ("bf16", 2, 64, False),
                                            ("bf16", 2, 128, False), ("fp32", 4, 128, True)):
        tiling = _tiling(4, size, value_bytes, arch, decode)
        cases.append(_compile_case(kind, decode, 4, size, 0, tiling))
    for kind, value_bytes, decode in (("bf16", 2, True), ("bf16", 2, False), ("fp32", 4, True)):
        tiling = _latent_tiling(16, value_bytes, arch, decode)
        cases.append(_compile_case(kind, decode, 16, 512, 64, tiling))
    for size in (128, 512):
        cases.append(dict(name=f"merge 16 parts Dh={size}", kernel=_merge_kernel,
                          types={"part_ptr": "*fp32", "lse_ptr": "*fp32", "out_ptr": "*bf16",
                                 "out_row": "i32:16", "out_head": "i32:16"},
                          constexprs={"H": 32, "SP": 16, "DH": size, "DP": size}))
    return cases


def _compile_case(kind: str, decode: bool, group: int, size: int, rest: int, tiling: dict) -> dict:
    types = {name: f"*{kind}" for name in ("q_ptr", "k_ptr", "v_ptr")} | {
        "out_ptr": "*fp32" if decode else f"*{kind}", "lse_ptr": "*fp32", "scale_log2": "fp32",
        "table_ptr": "*i32", "context_ptr": "*i32", "cu_ptr": "*i32"}
    types |= {name: "i32:16" for name in ("q_row", "q_head", "out_row", "out_head", "cache_row",
                                          "cache_head")}
    constexprs = {"GROUP": group, "TOKENS": 1 if decode else tiling["BM"] // group, "DECODE": decode,
                  "SPLIT": decode, "P": 16, "DH": size, "DP": size, "REST": rest, "RP": max(16, rest),
                  "BM": tiling["BM"], "BN": tiling["BN"]}
    name = f"{'decode' if decode else 'prefill'} {kind} Dh={size}" + (f"+{rest} latent" if rest else "")
    return dict(name=name, kernel=_attention_kernel, types=types, constexprs=constexprs,
                num_warps=tiling["num_warps"], num_stages=tiling["num_stages"])
