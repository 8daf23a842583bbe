"""Attention without the T x S score matrix: forward and backward, causal, grouped heads, packed sequences.

             keys ─►                     one program owns BM query rows; keys pass by BN at a time
    rows   ┌────┬────┬────┬────┐         and three numbers a row are kept:
     │     │ ok │diag│    │    │             m  largest score so far
     ▼     ├────┼────┼────┼────┤             l  sum of exp(score - m)
           │ ok │ ok │diag│    │           acc  sum of exp(score - m) * v
           └────┴────┴────┴────┘         a larger m rescales l and acc; out = acc / l at the end

Scores live in registers only, so memory traffic is O(T + S) instead of O(T * S). Blocks marked `ok`
need no mask, `diag` blocks do, the others are never visited. Only LSE = m + log(l) is saved (in
base 2), and the backward pass, in flash_backward.py, recomputes each probability from it. Sequences
are packed: cu_seqlens [B+1] holds where each starts, and no row of one sequence reads another.
Dao et al. 2022, arXiv 2205.14135; Dao 2023, arXiv 2307.08691. Notebook 10.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from aiinfra.kernels.chip import arch_of, large_shared
from aiinfra.kernels.flash_backward import attention_backward
from aiinfra.kernels.lang import pick_backend, tl, triton
from aiinfra.kernels.operators import launch, operator
from aiinfra.kernels.tiles import head_sizes, load_tile, row_head_strides, row_limits, store_tile
from aiinfra.perf.cost import Cost

_MAX_HEAD_SIZE = 128


def attention_reference(q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: list[int], cu_seqlens_k: list[int],
                        causal: bool = True, scale: float | None = None) -> Tensor:
    """What `flash_attention` computes, by the formula, one sequence at a time; float64 stays float64."""
    group, scale = q.shape[1] // k.shape[1], scale or q.shape[-1] ** -0.5
    outputs = []
    for (q0, q1), (k0, k1) in zip(_spans(cu_seqlens_q), _spans(cu_seqlens_k)):
        keys, values = (x[k0:k1].repeat_interleave(group, 1) for x in (k, v))            # [S, H, Dh]
        scores = torch.einsum("thd,shd->hts", q[q0:q1], keys) * scale                    # [H, T, S]
        if causal:
            scores = scores.masked_fill(~_seen(q1 - q0, k1 - k0, q.device), -torch.inf)
        weights = torch.softmax(scores, -1).nan_to_num(0.0)          # a row that sees no key is 0/0
        outputs.append(torch.einsum("hts,shd->thd", weights, values))
    return torch.cat(outputs) if outputs else torch.zeros_like(q)


def _spans(cu_seqlens: list[int]) -> list[tuple[int, int]]:
    return list(zip(cu_seqlens[:-1], cu_seqlens[1:]))


def _lengths(cu_seqlens: list[int]) -> list[int]:
    return [end - start for start, end in _spans(cu_seqlens)]


def _seen(rows: int, keys: int, device) -> Tensor:
    """[rows, keys] of bool: row i is the (rows - i)-th from the end, and sees up to its own key."""
    return torch.ones(rows, keys, dtype=torch.bool, device=device).tril(keys - rows)


def _attention_torch(q, k, v, cu_q, cu_k, causal, scale) -> Tensor:
    """PyTorch's own fused attention, a call for each sequence (one for all if their lengths agree)."""
    spans = list(zip(_spans(cu_q), _spans(cu_k)))
    shapes = {(q1 - q0, k1 - k0) for (q0, q1), (k0, k1) in spans}
    if len(shapes) == 1:
        return _sdpa(*(x.unflatten(0, (len(spans), -1)) for x in (q, k, v)), causal, scale).flatten(0, 1)
    # split, not slices: the gradient of a slice is as long as the whole, and there may be many sequences.
    pieces = zip(q.split(_lengths(cu_q)), k.split(_lengths(cu_k)), v.split(_lengths(cu_k)))
    parts = [_sdpa(*(x[None] for x in piece), causal, scale)[0] for piece in pieces]
    return torch.cat(parts) if parts else torch.zeros_like(q)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> Tensor:
    """q [B, T, H, Dh], k and v [B, S, K, Dh] -> [B, T, H, Dh]."""
    rows, keys, group = q.shape[1], k.shape[1], q.shape[2] // k.shape[2]
    if not rows or not keys:
        return q * 0.0
    # PyTorch aligns is_causal to the first key; with more keys than rows we mean the last one.
    mask = _seen(rows, keys, q.device) if causal and rows != keys else None
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))                                     # [B, H, T, Dh]
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal and mask is None,
                                       scale=scale, enable_gqa=group > 1).transpose(1, 2)
    return y if rows <= keys or not causal else y.nan_to_num(0.0)


@triton.jit
def _attend(acc, m, l, q, k_ptr, v_ptr, k_row, v_row, lo, hi, keys, last_key, scale_log2,
            MASKED: tl.constexpr, DH: tl.constexpr, DP: tl.constexpr, BN: tl.constexpr):
    """Let q's rows see keys lo:hi; `last_key` [BM] is the last key that each row may see."""
    col = tl.arange(0, BN)
    for start in tl.range(lo, hi, BN):
        at = tl.cast(start, tl.int64)         # tokens * row stride can pass 2^31
        k = load_tile(k_ptr + at * k_row, k_row, col, keys - start, MASKED, DH, DP)
        s = tl.dot(q, tl.trans(k), input_precision="ieee")                               # [BM, BN]
        # The scale is positive, so the largest score can be found first and scaled once a row;
        # scale, subtraction and the change to base 2 are then one multiply-add a score.
        if MASKED:
            s = tl.where(start + col[None, :] <= last_key[:, None], s, -float("inf"))
            m_new = tl.maximum(m, tl.max(s, 1) * scale_log2)
            base = tl.where(m_new == -float("inf"), 0.0, m_new)    # a row that has seen no key yet
        else:
            m_new = tl.maximum(m, tl.max(s, 1) * scale_log2)
            base = m_new
        p = tl.math.exp2(s * scale_log2 - base[:, None])
        shrink = tl.math.exp2(m - base)
        l = l * shrink + tl.sum(p, 1)
        v = load_tile(v_ptr + at * v_row, v_row, col, keys - start, MASKED, DH, DP)
        acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None], input_precision="ieee")
        m = m_new
    return acc, m, l


@triton.jit(do_not_specialize=["lse_head"])
def _forward_kernel(q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, cu_q_ptr, cu_k_ptr,
                    q_row, q_head, k_row, k_head, v_row, v_head, o_row, o_head, lse_head, scale_log2,
                    GROUP: tl.constexpr, CAUSAL: tl.constexpr, DH: tl.constexpr, DP: tl.constexpr,
                    BM: tl.constexpr, BN: tl.constexpr):
    # The last rows of a causal sequence see the most keys: started first, they end with the rest.
    row0 = (tl.num_programs(0) - 1 - tl.program_id(0)) * BM
    head, seq = tl.program_id(1), tl.program_id(2)
    q0, k0 = tl.load(cu_q_ptr + seq), tl.load(cu_k_ptr + seq)
    rows, keys = tl.load(cu_q_ptr + seq + 1) - q0, tl.load(cu_k_ptr + seq + 1) - k0
    if row0 >= rows:
        return
    first, kv_head = (q0 + row0).to(tl.int64), head // GROUP
    k_ptr += k0.to(tl.int64) * k_row + kv_head * k_head
    v_ptr += k0.to(tl.int64) * v_row + kv_head * v_head
    row = tl.arange(0, BM)
    q = load_tile(q_ptr + first * q_row + head * q_head, q_row, row, rows - row0, True, DH, DP)
    m = tl.full([BM], -float("inf"), tl.float32)
    l = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, DP], tl.float32)
    full, end, last_key = row_limits(row0, rows, keys, CAUSAL, BM, BN)
    acc, m, l = _attend(acc, m, l, q, k_ptr, v_ptr, k_row, v_row, 0, full, keys, last_key, scale_log2,
                        False, DH, DP, BN)
    acc, m, l = _attend(acc, m, l, q, k_ptr, v_ptr, k_row, v_row, full, end, keys, last_key, scale_log2,
                        True, DH, DP, BN)
    l = tl.where(l == 0.0, 1.0, l)            # a row that sees no key: 0, and LSE -inf
    store_tile(o_ptr + first * o_row + head * o_head, o_row, row, rows - row0, acc / l[:, None], DH, DP)
    lse = m + tl.math.log2(l)
    tl.store(lse_ptr + head.to(tl.int64) * lse_head + first + row, lse, mask=row0 + row < rows)


def _tiling(head_size: int, value_bytes: int, arch: int) -> dict:
    """Tile sizes, warps and stages of the forward kernel."""
    wide = head_size > 64
    if arch == 0:
        sizes = (16, 16, 4, 1)
    elif value_bytes > 2:                     # float32 in full precision: no tensor cores, few values fit
        sizes = (32, 32, 8 if wide else 4, 1)
    elif not large_shared(arch):
        sizes = (64, 32, 4, 2)
    else:                                     # four warps: two programs share a multiprocessor, and one
        sizes = (128, 64, 8 if wide else 4, 3)         # multiplies while the other takes exponents
    return dict(zip(("BM", "BN", "num_warps", "num_stages"), sizes))


@operator("flash_attention_forward")
def attention_forward(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int,
                      causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Packed q [N, H, Dh], k and v [M, K, Dh], adjacent along Dh -> o, of q's shape, and float32 lse [H, N]
    in base 2, which `flash_backward.attention_backward` wants."""
    (tokens, heads, size), batch = q.shape, cu_q.numel() - 1
    o = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(heads, tokens, dtype=torch.float32, device=q.device)
    tiling = _tiling(size, q.element_size(), arch_of(q))
    launch(_forward_kernel, (triton.cdiv(max_q, tiling["BM"]), heads, batch),
           q, k, v, o, lse, cu_q, cu_k, *row_head_strides(q, k, v, o), tokens, scale * math.log2(math.e),
           **head_sizes(q, k, causal), **tiling)
    return o, lse


class _FlashAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, cu_q, cu_k, max_q, max_k, causal, scale):
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
        o, lse = attention_forward(q, k, v, cu_q, cu_k, max_q, causal, scale)
        ctx.save_for_backward(q, k, v, o, lse, cu_q, cu_k)
        ctx.rest = max_q, max_k, causal, scale
        return o

    @staticmethod
    def backward(ctx, do):
        q, k, v, o, lse, cu_q, cu_k = ctx.saved_tensors
        do = do if do.stride(-1) == 1 else do.contiguous()
        return *attention_backward(q, k, v, o, lse, do, cu_q, cu_k, *ctx.rest), *[None] * 6


def flash_attention(q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor | None = None,
                    cu_seqlens_k: Tensor | None = None, *, max_seqlen_q: int | None = None,
                    max_seqlen_k: int | None = None, causal: bool = True, scale: float | None = None,
                    backend: str | None = None) -> Tensor:
    """softmax(scale * q kᵀ) v for each sequence; differentiable in q, k and v. Returns q's shape.

    Packed: q [N, H, Dh], k and v [M, K, Dh], H a multiple of K; sequence b is rows
    cu_seqlens_q[b]:cu_seqlens_q[b+1] of q and cu_seqlens_k[b]:… of k and v (int32 [B+1], by default that of
    q; without any, one sequence); together they cover every row. Dense: q [B, T, H, Dh], k and v [B, S, K,
    Dh]. `causal` is aligned to the end of the keys: row i of T sees keys 0 … i + S - T; a row that sees none
    is 0. max_seqlen_q and max_seqlen_k are the longest lengths; leaving them out reads them back from the
    GPU, which waits for it. `scale` is 1/sqrt(Dh) by default. Raises ValueError if shapes disagree, and on
    the Triton path for head sizes above 128.
    """
    if q.dim() == 4:
        (B, T), S = q.shape[:2], k.shape[1]
        starts = torch.arange(B + 1, dtype=torch.int32, device=q.device)
        flat = (x.flatten(0, 1) for x in (q, k, v))
        return flash_attention(*flat, starts * T, starts * S, max_seqlen_q=T, max_seqlen_k=S, causal=causal,
                               scale=scale, backend=backend).view(q.shape)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    backend = pick_backend(q, backend)
    _check(q, k, v, scale, backend)
    if cu_seqlens_q is None:
        cu_seqlens_q, max_seqlen_q = torch.tensor([0, len(q)], dtype=torch.int32, device=q.device), len(q)
        cu_seqlens_k, max_seqlen_k = torch.tensor([0, len(k)], dtype=torch.int32, device=q.device), len(k)
    elif cu_seqlens_k is None:
        cu_seqlens_k, max_seqlen_k = cu_seqlens_q, max_seqlen_q
    if backend == "torch":
        return _attention_torch(q, k, v, cu_seqlens_q.tolist(), cu_seqlens_k.tolist(), causal, scale)
    if not q.numel() or not k.numel():
        return q * 0.0
    max_seqlen_q = _longest(cu_seqlens_q) if max_seqlen_q is None else max_seqlen_q
    max_seqlen_k = _longest(cu_seqlens_k) if max_seqlen_k is None else max_seqlen_k
    return _FlashAttention.apply(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k,
                                 causal, scale)


def _longest(cu_seqlens: Tensor) -> int:
    return int(cu_seqlens.diff().max())


def _check(q: Tensor, k: Tensor, v: Tensor, scale: float, backend: str) -> None:
    heads, size = q.shape[-2:]
    if k.shape != v.shape or k.dim() != q.dim() or k.shape[-1] != size:
        raise ValueError(f"q is {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}; pass q [N, H, Dh] "
                         "and k, v [M, K, Dh] with one head size.")
    if heads % k.shape[-2]:
        raise ValueError(f"{heads} query heads do not divide into {k.shape[-2]} key heads; "
                         "H must be a multiple of K.")
    if scale <= 0:
        raise ValueError(f"scale is {scale}; it must be positive. To flip the sign, negate q.")
    if backend == "triton" and size > _MAX_HEAD_SIZE:
        raise ValueError(f"head size is {size}; the kernel's tiles hold at most {_MAX_HEAD_SIZE}. "
                         "Use backend='torch'.")


def cost(rows: int, keys: int, heads: int, kv_heads: int, head_size: int, bytes_per_value: float = 2,
         causal: bool = True, backward: bool = False) -> Cost:
    """One sequence. Forward: 2 products of 2 * Dh FLOPs a visible score; backward: 5 (the kernels do 7).

    Bytes: q, k, v and o once; backward reads them with dO and writes dQ, dK and dV.
    """
    scores = rows * keys - (min(rows, keys) * (min(rows, keys) - 1) / 2 if causal else 0)
    queries, keys_values = rows * heads * head_size, 2 * keys * kv_heads * head_size
    values = 4 * queries + 2 * keys_values if backward else 2 * queries + keys_values
    return Cost((10.0 if backward else 4.0) * head_size * heads * scores, values * bytes_per_value)


def compile_cases(arch: int) -> list[dict]:
    """What this file has to compile; see gpu/compile.py."""
    cases = []
    for kind, value_bytes, size in (("bf16", 2, 64), ("bf16", 2, 128), ("fp32", 4, 128)):
        tiling = _tiling(size, value_bytes, arch)
        types = {f"{name}_ptr": f"*{kind}" for name in "qkvo"}
        types |= {f"{name}_{axis}": "i32:16" for name in "qkvo" for axis in ("row", "head")}
        types |= {"lse_ptr": "*fp32", "cu_q_ptr": "*i32", "cu_k_ptr": "*i32", "scale_log2": "fp32"}
        cases.append(dict(name=f"forward {kind} Dh={size}", kernel=_forward_kernel, types=types,
                          constexprs={"GROUP": 4, "CAUSAL": True, "DH": size, "DP": size,
                                      "BM": tiling["BM"], "BN": tiling["BN"]},
                          num_warps=tiling["num_warps"], num_stages=tiling["num_stages"]))
    return cases
