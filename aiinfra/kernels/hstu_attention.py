"""HSTU attention: pointwise SiLU in place of softmax, with relative bias, over histories of any length.

    A[i, j] = SiLU(alpha * q_i · k_j + bias[i, j]) / n     for j <= i, else 0         y = A v

A softmax says which items matter most; a recommender also wants to know how many matter, and SiLU
keeps that intensity. Nothing is normalised over a row, so there is no running maximum, no rescaling and
nothing to save but the inputs. n is the padded length (`max_len`), the same for every sequence of every
batch: with each sequence's own length instead, the same history would score differently.

    composition in PyTorch     N x N scores, bias and mask in memory, and, by one-hot, 129 * N² for time
    fused (this file)          tiles in registers: O(N) memory, tables in cache

Histories are packed ("jagged"): sequence b is rows seq_offsets[b]:seq_offsets[b+1] of q, k, v and
timestamps. The backward pass is in hstu_backward.py. Formula: Zhai et al. 2024, arXiv 2402.17152, the
research model; its production form has no bias and alpha = 1/sqrt(Dh). Notebook 10b.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from aiinfra.kernels.chip import arch_of, large_shared
from aiinfra.kernels.hstu_backward import COMPILED_SIZES, compile_types, hstu_backward
from aiinfra.kernels.hstu_bias import (
    BUCKETS, bias_tile, hstu_sizes, load_times, relative_bias, table_arguments, time_buckets)
from aiinfra.kernels.lang import pick_backend, tl, triton
from aiinfra.kernels.operators import launch, operator
from aiinfra.kernels.tiles import load_tile, padded, row_head_strides, store_tile
from aiinfra.perf.cost import Cost

_MAX_HEAD_SIZE = 128


def hstu_reference(q: Tensor, k: Tensor, v: Tensor, seq_offsets: list[int], timestamps: Tensor,
                   position_table: Tensor | None = None, time_table: Tensor | None = None, *,
                   max_len: int, alpha: float = 1.0) -> Tensor:
    """What `hstu_attention` computes, by the formula, one sequence at a time; float64 stays float64."""
    outputs = [q.new_zeros(0, *v.shape[1:])]
    for start, end in zip(seq_offsets[:-1], seq_offsets[1:]):
        rows = slice(start, end)
        scores = torch.einsum("ihd,jhd->hij", q[rows], k[rows]) * alpha
        scores = scores + relative_bias(timestamps[rows], position_table, time_table)      # [H, T, T]
        outputs.append(torch.einsum("hij,jhd->ihd", F.silu(scores).tril() / max_len, v[rows]))
    return torch.cat(outputs)


def naive_hstu(q: Tensor, k: Tensor, v: Tensor, seq_offsets: Tensor, timestamps: Tensor,
               position_table: Tensor | None = None, time_table: Tensor | None = None, *,
               max_len: int, alpha: float = 1.0, one_hot: bool = True) -> Tensor:
    """The same as a composition of dense PyTorch operations: what the fused kernel is measured against.

    Pads every sequence to max_len and materialises [B, H, N, N] scores. The time bias is a product of
    one-hot buckets [B, N, N, 129] with the table, O(129 * N²); `one_hot=False` looks it up instead.
    """
    index = torch.arange(max_len, device=q.device)
    lengths = seq_offsets.diff()
    real = index < lengths[:, None]                                                        # [B, N]
    at = torch.where(real, seq_offsets[:-1, None] + index, 0)
    q, k, v = (x[at] * real[..., None, None] for x in (q, k, v))                           # [B, N, H, Dh]
    scores = torch.einsum("bihd,bjhd->bhij", q, k) * alpha
    if position_table is not None:
        offset = position_table.shape[-1] // 2 + index[None, :] - index[:, None]
        scores = scores + position_table[..., offset]
    if time_table is not None:
        after = torch.minimum(index + 1, (lengths[:, None] - 1).clamp(min=0))
        buckets = time_buckets(timestamps[at].gather(1, after)[:, :, None] - timestamps[at][:, None, :])
        hot = F.one_hot(buckets, BUCKETS).to(scores.dtype) if one_hot else None            # [B, N, N, 129]
        table = time_table if time_table.dim() == 2 else time_table[None]
        bias = hot @ table.T if one_hot else table.T[buckets]                              # [B, N, N, 1 or H]
        scores = scores + bias.permute(0, 3, 1, 2)
    weights = F.silu(scores).tril() / max_len * real[:, None, None, :]
    return torch.einsum("bhij,bjhd->bihd", weights, v)[real]


@triton.jit
def _attend(acc, q, k_ptr, v_ptr, time_ptr, position_ptr, time_table_ptr, k_row, v_row, lo, hi, length,
            origin,
            row, row_high, row_low, alpha, center, MASKED: tl.constexpr, POSITION: tl.constexpr,
            TIME: tl.constexpr, DH: tl.constexpr, DP: tl.constexpr, DV: tl.constexpr, VP: tl.constexpr,
            BN: tl.constexpr):
    """Add keys lo:hi to acc [BM, VP]."""
    col = tl.arange(0, BN)
    for start in tl.range(lo, hi, BN):
        at = tl.cast(start, tl.int64)
        k = load_tile(k_ptr + at * k_row, k_row, col, length - start, MASKED, DH, DP)
        s = tl.dot(q, tl.trans(k), input_precision="ieee") * alpha                         # [BM, BN]
        key = (start + col)[None, :]
        key_high, key_low = load_times(time_ptr, start + col, length, origin)
        s += bias_tile(row[:, None], key, row_high[:, None], row_low[:, None], key_high[None, :],
                       key_low[None, :], position_ptr, time_table_ptr, center, POSITION, TIME)
        a = s * tl.sigmoid(s)
        if MASKED:
            a = tl.where(key <= row[:, None], a, 0.0)
        v = load_tile(v_ptr + at * v_row, v_row, col, length - start, MASKED, DV, VP)
        acc = tl.dot(a.to(v.dtype), v, acc, input_precision="ieee")
    return acc


@triton.jit
def _forward_kernel(q_ptr, k_ptr, v_ptr, y_ptr, offset_ptr, time_ptr, position_ptr, time_table_ptr,
                    q_row, q_head, k_row, k_head, v_row, v_head, y_row, y_head, position_head, time_head,
                    center, alpha, inverse_n,
                    POSITION: tl.constexpr, TIME: tl.constexpr, DH: tl.constexpr, DP: tl.constexpr,
                    DV: tl.constexpr, VP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    row0 = (tl.num_programs(0) - 1 - tl.program_id(0)) * BM           # the longest rows start first
    head, seq = tl.program_id(1), tl.program_id(2)
    begin = tl.load(offset_ptr + seq).to(tl.int64)
    length = (tl.load(offset_ptr + seq + 1) - begin).to(tl.int32)
    if row0 >= length:
        return
    first, index = begin + row0, tl.arange(0, BM)
    q = load_tile(q_ptr + first * q_row + head * q_head, q_row, index, length - row0, True, DH, DP)
    time_ptr += begin
    origin = tl.load(time_ptr)
    row = row0 + index
    row_high, row_low = load_times(time_ptr, row + 1, length, origin)
    k_ptr += begin * k_row + head * k_head
    v_ptr += begin * v_row + head * v_head
    position_ptr += head * position_head
    time_table_ptr += head * time_head
    acc = tl.zeros([BM, VP], tl.float32)
    full, end = row0 // BN * BN, tl.minimum(row0 + BM, length)        # keys below `full`: seen by all rows
    acc = _attend(acc, q, k_ptr, v_ptr, time_ptr, position_ptr, time_table_ptr, k_row, v_row, 0, full, length,
                  origin, row, row_high, row_low, alpha, center, False, POSITION, TIME, DH, DP, DV, VP, BN)
    acc = _attend(acc, q, k_ptr, v_ptr, time_ptr, position_ptr, time_table_ptr, k_row, v_row, full, end,
                  length,
                  origin, row, row_high, row_low, alpha, center, True, POSITION, TIME, DH, DP, DV, VP, BN)
    store_tile(y_ptr + first * y_row + head * y_head, y_row, index, length - row0, acc * inverse_n, DV, VP)


def _tiling(size: int, value_bytes: int, arch: int) -> dict:
    """Tile sizes and warps for the larger of the two head sizes.

    One stage: Triton would stage the lookups of the bias in shared memory too, a tile for each table.
    The time is in the bias and SiLU anyway, and a second program's arithmetic hides the loads.
    """
    if arch == 0:
        sizes = (16, 16, 4, 1)
    elif value_bytes > 2:
        sizes = (32, 32, 8 if size > 32 else 4, 1)
    elif not large_shared(arch):              # gaming chips: with four warps, registers spill
        sizes = (64, 32, 8, 1)
    else:
        sizes = (64, 32 if size > 64 else 64, 4, 1)
    return dict(zip(("BM", "BN", "num_warps", "num_stages"), sizes))


@operator("hstu_attention_forward")
def _forward(q: Tensor, k: Tensor, v: Tensor, position_table: Tensor | None, time_table: Tensor | None,
             seq_offsets: Tensor, timestamps: Tensor, max_len: int, alpha: float) -> Tensor:
    """As `hstu_attention`, for tensors adjacent along Dh."""
    heads, y = q.shape[1], torch.empty(v.shape, dtype=v.dtype, device=v.device)
    tables = table_arguments(position_table, time_table, q)
    sizes = hstu_sizes(q, v, position_table, time_table)
    tiling = _tiling(max(sizes["DP"], sizes["VP"]), q.element_size(), arch_of(q))
    launch(_forward_kernel, (triton.cdiv(max_len, tiling["BM"]), heads, len(seq_offsets) - 1),
           q, k, v, y, seq_offsets, timestamps, *tables[:2], *row_head_strides(q, k, v, y), *tables[2:],
           alpha, 1.0 / max_len, **sizes, **tiling)
    return y


class _HSTUAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, position_table, time_table, seq_offsets, timestamps, max_len, alpha):
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
        inputs = (q, k, v, position_table, time_table, seq_offsets, timestamps)
        ctx.save_for_backward(*inputs)
        ctx.max_len, ctx.alpha = max_len, alpha
        return _forward(*inputs, max_len, alpha)

    @staticmethod
    def backward(ctx, dy):
        grads = hstu_backward(dy, *ctx.saved_tensors, ctx.max_len, ctx.alpha, ctx.needs_input_grad[3:5])
        return *grads, None, None, None, None


def hstu_attention(q: Tensor, k: Tensor, v: Tensor, seq_offsets: Tensor, timestamps: Tensor | None = None,
                   position_table: Tensor | None = None, time_table: Tensor | None = None, *,
                   max_len: int, alpha: float = 1.0, backend: str | None = None) -> Tensor:
    """SiLU(alpha * q kᵀ + bias) v / max_len for each history, causal; returns [L, H, Dv].

    q, k [L, H, Dh] and v [L, H, Dv], packed: sequence b is rows seq_offsets[b]:seq_offsets[b+1] (int [B+1],
    which cover every row); timestamps int64 [L], needed by time_table only. position_table [2M-1] or [H,
    2M-1] with M >= max_len: entry M-1-d is the bias at distance d. time_table [129] or [H, 129], by the
    bucket of the next item's time less the key's. Either may be None. `max_len` is the padded length n that
    scores are divided by, and no sequence may be longer (not checked: it would wait for the GPU).

    Differentiable in q, k, v and both tables; the same result in every run. Raises ValueError if
    shapes disagree, and on the Triton path for head sizes above 128.
    """
    backend = pick_backend(q, backend)
    _check(q, k, v, timestamps, position_table, time_table, max_len, backend)
    if timestamps is None:
        timestamps = torch.zeros(len(q), dtype=torch.int64, device=q.device)
    if backend == "torch":
        return hstu_reference(q, k, v, seq_offsets.tolist(), timestamps, position_table, time_table,
                              max_len=max_len, alpha=alpha)
    if not v.numel() or len(seq_offsets) < 2:
        return v * 0.0
    return _HSTUAttention.apply(q, k, v, position_table, time_table, seq_offsets, timestamps, max_len, alpha)


def _check(q, k, v, timestamps, position_table, time_table, max_len, backend) -> None:
    if q.shape != k.shape or q.shape[:2] != v.shape[:2]:
        raise ValueError(f"q is {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}; pass q and k "
                         "[L, H, Dh] and v [L, H, Dv].")
    if time_table is not None and (timestamps is None or timestamps.shape != q.shape[:1]):
        raise ValueError(f"timestamps is {None if timestamps is None else tuple(timestamps.shape)}; a time "
                         f"table needs one int64 for each of {len(q)} items.")
    if max_len < 1:
        raise ValueError(f"max_len is {max_len}; it divides the scores and must be at least 1.")
    for name, table, least in (("position_table", position_table, 2 * max_len - 1),
                               ("time_table", time_table, BUCKETS)):
        if table is None:
            continue
        entries, odd = table.shape[-1], table.shape[-1] % 2 == 1
        one_a_head = table.dim() == 2 and len(table) == q.shape[1]
        if not (table.dim() == 1 or one_a_head) or entries < least or not odd:
            raise ValueError(f"{name} is {tuple(table.shape)}; for max_len={max_len} it needs an odd number "
                             f"of at least {least} entries, [entries] or [{q.shape[1]}, entries].")
    if time_table is not None and time_table.shape[-1] != BUCKETS:
        raise ValueError(f"time_table has {time_table.shape[-1]} entries; there are {BUCKETS} buckets.")
    if backend == "triton" and max(q.shape[-1], v.shape[-1]) > _MAX_HEAD_SIZE:
        raise ValueError(f"head size is {max(q.shape[-1], v.shape[-1])}; the kernel's tiles hold at most "
                         f"{_MAX_HEAD_SIZE}. Use backend='torch'.")


def cost(lengths: list[int], heads: int, head_size: int, value_size: int, bytes_per_value: float = 2,
         backward: bool = False) -> Cost:
    """Forward: 2 products a visible score; backward: 5 (the kernels do 9). Bytes: each tensor once.

    SiLU and bias are not counted: about 10 operations a score beside 2 * (Dh + Dv).
    """
    scores = sum(n * (n + 1) / 2 for n in lengths) * heads
    flops = (6.0 * head_size + 4.0 * value_size) if backward else 2.0 * (head_size + value_size)
    values = sum(lengths) * heads * (2 * head_size + 2 * value_size) * (2 if backward else 1)
    return Cost(scores * flops, values * bytes_per_value + sum(lengths) * 8)


def compile_cases(arch: int) -> list[dict]:
    """What this file has to compile; see gpu/compile.py."""
    cases = []
    for kind, value_bytes, size in COMPILED_SIZES:
        tiling = _tiling(padded(size), value_bytes, arch)
        cases.append(dict(name=f"forward {kind} Dh={size}", kernel=_forward_kernel,
                          types=compile_types(kind, size),
                          constexprs={"POSITION": True, "TIME": True, "DH": size, "DP": padded(size),
                                      "DV": size, "VP": padded(size), "BM": tiling["BM"], "BN": tiling["BN"]},
                          num_warps=tiling["num_warps"], num_stages=tiling["num_stages"]))
    return cases
