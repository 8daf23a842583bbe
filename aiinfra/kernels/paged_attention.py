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

Where decodes and pieces of prompts meet in a step, each kind has a launch of its own: a tile that is right
for 128 tokens of a prompt would read one decode's context on one multiprocessor, from its first key to its
last.

The grid depends on shapes alone and nothing is read back, so a CUDA graph can hold the call; a
request with context length 0 gives 0. Kwon et al. 2023, arXiv 2309.06180; Dao et al. 2023,
"Flash-Decoding". Notebook 13.

A latent cache (DeepSeek's MLA) has one row of R + Dr values a token, and all heads read it: the whole row is
the key, its first R the value, which is therefore loaded once for both. Notebook 17.
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from aiinfra.kernels.chip import multiprocessors_of
from aiinfra.kernels.lang import pick_backend, tl, triton
from aiinfra.kernels.operators import launch, operator, same_memory
from aiinfra.kernels.paged_gather import attend_fetched, plan_fetches
from aiinfra.kernels.paged_tiles import AttentionCut, room_for
from aiinfra.perf.cost import Cost

_MAX_HEAD_SIZE, _MAX_LATENT = 128, 512


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
@triton.jit(do_not_specialize=["requests", "first_tile", "table_row", "splits"])
def _attention_kernel(q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, table_ptr, context_ptr, cu_ptr, requests,
                      first_tile, q_row, q_head, out_row, out_head, cache_row, cache_head, table_row, splits,
                      scale_log2,
                      GROUP: tl.constexpr, TOKENS: tl.constexpr, DECODE: tl.constexpr, SPLIT: tl.constexpr,
                      P: tl.constexpr, DH: tl.constexpr, DP: tl.constexpr, REST: tl.constexpr,
                      RP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    # Heads vary fastest: programs that run together read neighbouring heads of the same tokens.
    kv_head = tl.program_id(0)
    if DECODE:
        request, split, token0 = tl.program_id(2), tl.program_id(1), 0
        q0, tokens = request, 1
    else:
        tile, split = first_tile + tl.program_id(1), 0
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
    """out[b, h] from its `splits` parts, of at most SP."""
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


def paged_attention(q: Tensor, k_cache: Tensor, v_cache: Tensor, block_tables: Tensor, context_lens: Tensor,
                    cu_seqlens_q: Tensor | None = None, *, decodes: int = 0, max_context: int | None = None,
                    scale: float | None = None, splits: int | None = None,
                    backend: str | None = None) -> Tensor:
    """Attention of the new tokens q [N, H, Dh] over each request's cached keys. Returns [N, H, Dv].

    k_cache, v_cache [blocks, P, K, Dh] contiguous, of q's dtype, H a multiple of K, with the new
    tokens' keys and values already written; or a latent cache: K = 1, and v_cache is k_cache[..., :Dv].
    block_tables int32 [B, max_blocks], context_lens int32
    [B], cu_seqlens_q int32 [B+1]. Without cu_seqlens_q every request has one new token and N = B.
    A row of a request of context length 0, or past cu_seqlens_q[B], is 0. Entries of a table past
    its context are never followed.

    `decodes`: with cu_seqlens_q, so many requests stand first that have one new token each, which nobody
    can check here without waiting for the GPU. `max_context` (default max_blocks * P) only guides into how
    many parts a decode splits each context; `splits` sets it. None of them changes the result beyond
    rounding. Raises ValueError if shapes
    or dtypes disagree, and on the Triton path for head sizes above 128 (latent: for Dv above 512).
    """
    backend = pick_backend(q, backend)
    _check(q, k_cache, v_cache, block_tables, context_lens, cu_seqlens_q, backend)
    if not 0 <= decodes <= len(context_lens):
        raise ValueError(f"decodes={decodes}; there are {len(context_lens)} requests. Pass how many of them "
                         "stand first with one new token.")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if backend == "torch":
        return paged_attention_reference(q, k_cache, v_cache, block_tables, context_lens, cu_seqlens_q, scale)
    q = q if q.stride(-1) == 1 else q.contiguous()
    return _attention(q, k_cache, v_cache, block_tables, context_lens, cu_seqlens_q, decodes, max_context,
                      scale, splits)


@operator("paged_attention")
def _attention(q: Tensor, k_cache: Tensor, v_cache: Tensor, block_tables: Tensor, context_lens: Tensor,
               cu_seqlens_q: Tensor | None, decodes: int, max_context: int | None, scale: float,
               splits: int | None) -> Tensor:
    """As `paged_attention`, for q adjacent along Dh."""
    rows, heads, _ = q.shape
    make = torch.empty if cu_seqlens_q is None else torch.zeros
    out = make(rows, heads, v_cache.shape[-1], dtype=q.dtype, device=q.device)
    if not out.numel():
        return out
    starts = context_lens if cu_seqlens_q is None else cu_seqlens_q              # a decode reads none
    requests = len(context_lens)
    if cu_seqlens_q is None:
        decodes = requests
    cut = AttentionCut.of(q, k_cache, v_cache.shape[-1])
    step = _Step(
        cut=cut,
        of_layer=(q, k_cache, v_cache),
        of_step=(block_tables, context_lens, starts),
        scale=scale,
    )
    if decodes and splits is None:
        longest = max_context or block_tables.shape[1] * cut.block_size
        splits = cut.count_splits(decodes, longest, multiprocessors_of(q))
    if decodes:
        step.decode(decodes, splits, out)
    if decodes < requests:
        step.read_prompts(decodes, out)
    return out


@dataclass(frozen=True)
class _Step:
    """The arguments that all launches of one call share."""

    cut: AttentionCut
    of_layer: tuple[Tensor, Tensor, Tensor]      # q, k_cache, v_cache
    of_step: tuple[Tensor, Tensor, Tensor]       # block tables, context lengths, starts
    scale: float

    def decode(self, requests: int, splits: int, out: Tensor) -> None:
        """The first requests, of one token each: a program for every part of every context."""
        _, heads, size = out.shape
        part, lse = out, out
        if splits > 1:
            part = out.new_empty(requests, heads, splits, size, dtype=torch.float32)
            lse = out.new_empty(requests, heads, splits, dtype=torch.float32)
        self._attend((self.cut.programs, splits, requests), (part, lse), self.cut.constants(True), splits)
        if splits > 1:
            constants = self.cut.constants(True)
            launch(_merge_kernel, (requests, heads), part, lse, out, *out.stride()[:2], splits, H=heads,
                   SP=room_for(splits), DH=constants["DH"], DP=constants["DP"])

    def read_prompts(self, after: int, out: Tensor) -> None:
        """All requests but the first, of one token each, which would have the first tiles."""
        constants = self.cut.constants(False)
        tokens = constants["TOKENS"]
        first_tile = after // tokens + after
        tiles = len(out) // tokens + len(self.of_step[1]) - first_tile
        self._attend((self.cut.programs, tiles), (out, out), constants, first_tile=first_tile)

    def _attend(self, grid: tuple[int, ...], into: tuple[Tensor, Tensor], constants: dict, splits: int = 1,
                first_tile: int = 0) -> None:
        tables, contexts, _ = self.of_step
        q, part = self.of_layer[0], into[0]
        cut = self.cut
        cache_head = 0 if cut.latent else cut.size
        launch(
            _attention_kernel, grid, *self.of_layer, *into, *self.of_step, len(contexts), first_tile,
            *q.stride()[:2], *part.stride()[:2], cut.kv_heads * cut.size, cache_head, tables.stride(0),
            splits, self.scale * math.log2(math.e), SPLIT=splits > 1, **constants)


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
    plain = AttentionCut(
        heads=32,
        kv_heads=8,
        size=128,
        value_size=128,
        block_size=16,
        value_bytes=2,
        arch=arch,
    )
    small = replace(plain, size=64, value_size=64)
    latent = replace(plain, heads=128, kv_heads=1, size=576, value_size=512)
    cases = [_compile_case(cut, decode) for cut in (small, plain, latent) for decode in (True, False)]
    cases += [_compile_case(replace(cut, value_bytes=4), True) for cut in (plain, latent)]
    for size, parts in ((128, 16), (128, 64), (512, 16)):
        cases.append(dict(name=f"merge {parts} parts Dh={size}", kernel=_merge_kernel,
                          types={"part_ptr": "*fp32", "lse_ptr": "*fp32", "out_ptr": "*bf16",
                                 "out_row": "i32:16", "out_head": "i32:16"},
                          constexprs={"H": 32, "SP": parts, "DH": size, "DP": size}))
    return cases


def _compile_case(cut: AttentionCut, decode: bool) -> dict:
    kind = "bf16" if cut.value_bytes == 2 else "fp32"
    types = {name: f"*{kind}" for name in ("q_ptr", "k_ptr", "v_ptr")} | {
        "out_ptr": "*fp32" if decode else f"*{kind}", "lse_ptr": "*fp32", "scale_log2": "fp32",
        "table_ptr": "*i32", "context_ptr": "*i32", "cu_ptr": "*i32"}
    types |= {name: "i32:16" for name in ("q_row", "q_head", "out_row", "out_head", "cache_row",
                                          "cache_head")}
    constexprs = cut.constants(decode) | {"SPLIT": decode}
    options = {name: constexprs.pop(name) for name in ("num_warps", "num_stages")}
    rest = f"+{constexprs['REST']} latent" if cut.latent else ""
    name = f"{'decode' if decode else 'prefill'} {kind} Dh={cut.value_size}{rest}"
    return dict(name=name, kernel=_attention_kernel, types=types, constexprs=constexprs, **options)
