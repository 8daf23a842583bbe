"""The backward pass of HSTU attention, the bias tables' gradients included, without atomics.

    s = alpha q kᵀ + bias    A = SiLU(s) / n    dA = dY vᵀ    dS = dA * SiLU'(s) / n
    SiLU'(s) = σ(s) (1 + s (1 - σ(s)))

    column kernel   a program owns BN keys:    dV = Aᵀ dY      dK = alpha dSᵀ q
    row kernel      a program owns BM rows:    dQ = alpha dS k
    bias kernel     a program owns a band of block diagonals:

        keys ─►          tiles of one band hold the same distances i - j, so their dS are added tile
    rows  0              onto tile and the diagonals of the sum are summed once, at the end; time
     │    1  0           buckets are summed tile by tile over the few buckets that a tile spans
     ▼    2  1  0        (each is 1.35 times as long as the last: far tiles span two or three)
          3  2  1  0

Everything is recomputed from the inputs. Each program writes its own partial table gradients, added
afterwards in a fixed order: two runs agree to the bit. Zhai et al. 2024, arXiv 2402.17152. Notebook 10b.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from aiinfra.kernels.chip import arch_of, large_shared
from aiinfra.kernels.hstu_bias import (
    BUCKETS, bias_tile, bucket_tile, hstu_sizes, load_times, table_arguments)
from aiinfra.kernels.lang import tl, triton
from aiinfra.kernels.operators import launch, operator
from aiinfra.kernels.tiles import load_tile, padded, row_head_strides, store_tile


@triton.jit
def _silu_gradient(s):
    gate = tl.sigmoid(s)
    return gate * (1.0 + s * (1.0 - gate))


@triton.jit
def _column_kernel(q_ptr, k_ptr, v_ptr, dy_ptr, dk_ptr, dv_ptr, offset_ptr, time_ptr, position_ptr,
                   time_table_ptr,
                   q_row, q_head, k_row, k_head, v_row, v_head, dy_row, dy_head, dk_row, dk_head, dv_row,
                   dv_head,
                   position_head, time_head, center, alpha, inverse_n,
                   POSITION: tl.constexpr, TIME: tl.constexpr, DH: tl.constexpr, DP: tl.constexpr,
                   DV: tl.constexpr, VP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    col0, head, seq = tl.program_id(0) * BN, tl.program_id(1), tl.program_id(2)
    begin = tl.load(offset_ptr + seq).to(tl.int64)
    length = (tl.load(offset_ptr + seq + 1) - begin).to(tl.int32)
    if col0 >= length:
        return
    first, col, index = begin + col0, tl.arange(0, BN), tl.arange(0, BM)
    k = load_tile(k_ptr + first * k_row + head * k_head, k_row, col, length - col0, True, DH, DP)
    v = load_tile(v_ptr + first * v_row + head * v_head, v_row, col, length - col0, True, DV, VP)
    time_ptr += begin
    origin = tl.load(time_ptr)
    key_high, key_low = load_times(time_ptr, col0 + col, length, origin)
    q_ptr += begin * q_row + head * q_head
    dy_ptr += begin * dy_row + head * dy_head
    position_ptr += head * position_head
    time_table_ptr += head * time_head
    dk = tl.zeros([BN, DP], tl.float32)
    dv = tl.zeros([BN, VP], tl.float32)
    for start in tl.range(col0 // BM * BM, length, BM):
        at = tl.cast(start, tl.int64)
        q = load_tile(q_ptr + at * q_row, q_row, index, length - start, True, DH, DP)
        dy = load_tile(dy_ptr + at * dy_row, dy_row, index, length - start, True, DV, VP)
        row = start + index
        row_high, row_low = load_times(time_ptr, row + 1, length, origin)
        s = tl.dot(k, tl.trans(q), input_precision="ieee") * alpha                         # [BN, BM]
        s += bias_tile(row[None, :], (col0 + col)[:, None], row_high[None, :], row_low[None, :],
                       key_high[:, None],
                       key_low[:, None], position_ptr, time_table_ptr, center, POSITION, TIME)
        # Rows past the end need no mask: their dy is 0, and with it all that they add.
        visible = (col0 + col)[:, None] <= row[None, :]
        a = tl.where(visible, s * tl.sigmoid(s), 0.0)
        dv = tl.dot(a.to(dy.dtype), dy, dv, input_precision="ieee")
        da = tl.dot(v, tl.trans(dy), input_precision="ieee")                               # [BN, BM]
        ds = tl.where(visible, da * _silu_gradient(s), 0.0)
        dk = tl.dot(ds.to(q.dtype), q, dk, input_precision="ieee")
    store_tile(dk_ptr + first * dk_row + head * dk_head, dk_row, col, length - col0, dk * (alpha * inverse_n),
               DH, DP)
    store_tile(dv_ptr + first * dv_row + head * dv_head, dv_row, col, length - col0, dv * inverse_n, DV, VP)


@triton.jit
def _row_kernel(q_ptr, k_ptr, v_ptr, dy_ptr, dq_ptr, offset_ptr, time_ptr, position_ptr, time_table_ptr,
                q_row, q_head, k_row, k_head, v_row, v_head, dy_row, dy_head, dq_row, dq_head,
                position_head, time_head, center, alpha, inverse_n,
                POSITION: tl.constexpr, TIME: tl.constexpr, DH: tl.constexpr, DP: tl.constexpr,
                DV: tl.constexpr, VP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    row0 = (tl.num_programs(0) - 1 - tl.program_id(0)) * BM
    head, seq = tl.program_id(1), tl.program_id(2)
    begin = tl.load(offset_ptr + seq).to(tl.int64)
    length = (tl.load(offset_ptr + seq + 1) - begin).to(tl.int32)
    if row0 >= length:
        return
    first, index, col = begin + row0, tl.arange(0, BM), tl.arange(0, BN)
    q = load_tile(q_ptr + first * q_row + head * q_head, q_row, index, length - row0, True, DH, DP)
    dy = load_tile(dy_ptr + first * dy_row + head * dy_head, dy_row, index, length - row0, True, DV, VP)
    time_ptr += begin
    origin, row = tl.load(time_ptr), row0 + index
    row_high, row_low = load_times(time_ptr, row + 1, length, origin)
    k_ptr += begin * k_row + head * k_head
    v_ptr += begin * v_row + head * v_head
    position_ptr += head * position_head
    time_table_ptr += head * time_head
    dq = tl.zeros([BM, DP], tl.float32)
    for start in tl.range(0, tl.minimum(row0 + BM, length), BN):
        at = tl.cast(start, tl.int64)
        k = load_tile(k_ptr + at * k_row, k_row, col, length - start, True, DH, DP)
        v = load_tile(v_ptr + at * v_row, v_row, col, length - start, True, DV, VP)
        key = (start + col)[None, :]
        key_high, key_low = load_times(time_ptr, start + col, length, origin)
        s = tl.dot(q, tl.trans(k), input_precision="ieee") * alpha                         # [BM, BN]
        s += bias_tile(row[:, None], key, row_high[:, None], row_low[:, None], key_high[None, :],
                       key_low[None, :], position_ptr, time_table_ptr, center, POSITION, TIME)
        da = tl.dot(dy, tl.trans(v), input_precision="ieee")
        ds = tl.where(key <= row[:, None], da * _silu_gradient(s), 0.0)
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision="ieee")
    store_tile(dq_ptr + first * dq_row + head * dq_head, dq_row, index, length - row0,
               dq * (alpha * inverse_n), DH, DP)


@triton.jit
def _add_sums(total, values, key, low, high, SIZE: tl.constexpr):
    """total [SIZE] with, at each k from low to high, the sum of `values` where `key` == k added."""
    for k in range(low, high + 1):
        part = tl.sum(tl.where(key == k, values, 0.0))
        total += tl.where(tl.arange(0, SIZE) == k, part, 0.0)
    return total


@triton.jit
def _bias_kernel(q_ptr, k_ptr, v_ptr, dy_ptr, position_part_ptr, time_part_ptr, offset_ptr, time_ptr,
                 position_ptr, time_table_ptr, q_row, q_head, k_row, k_head, v_row, v_head, dy_row, dy_head,
                 position_head, time_head, center, alpha, inverse_n,
                 POSITION: tl.constexpr, TIME: tl.constexpr, DH: tl.constexpr, DP: tl.constexpr,
                 DV: tl.constexpr, VP: tl.constexpr, B: tl.constexpr, BUCKETS_P: tl.constexpr):
    band, head, seq = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    begin = tl.load(offset_ptr + seq).to(tl.int64)
    length = (tl.load(offset_ptr + seq + 1) - begin).to(tl.int32)
    if band * B >= length:
        return
    index = tl.arange(0, B)
    time_ptr += begin
    origin = tl.load(time_ptr)
    q_ptr += begin * q_row + head * q_head
    k_ptr += begin * k_row + head * k_head
    v_ptr += begin * v_row + head * v_head
    dy_ptr += begin * dy_row + head * dy_head
    position_ptr += head * position_head
    time_table_ptr += head * time_head
    by_cell = tl.zeros([B, B], tl.float32)                 # dS added over the band, cell by cell
    by_bucket = tl.zeros([BUCKETS_P], tl.float32)
    for col0 in tl.range(0, length - band * B, B):
        row0 = col0 + band * B
        q_at, k_at = tl.cast(row0, tl.int64), tl.cast(col0, tl.int64)
        q = load_tile(q_ptr + q_at * q_row, q_row, index, length - row0, True, DH, DP)
        dy = load_tile(dy_ptr + q_at * dy_row, dy_row, index, length - row0, True, DV, VP)
        k = load_tile(k_ptr + k_at * k_row, k_row, index, length - col0, True, DH, DP)
        v = load_tile(v_ptr + k_at * v_row, v_row, index, length - col0, True, DV, VP)
        row, key = (row0 + index)[:, None], (col0 + index)[None, :]
        row_high, row_low = load_times(time_ptr, row0 + index + 1, length, origin)
        key_high, key_low = load_times(time_ptr, col0 + index, length, origin)
        s = tl.dot(q, tl.trans(k), input_precision="ieee") * alpha
        s += bias_tile(row, key, row_high[:, None], row_low[:, None], key_high[None, :], key_low[None, :],
                       position_ptr, time_table_ptr, center, POSITION, TIME)
        da = tl.dot(dy, tl.trans(v), input_precision="ieee")
        visible = (key <= row) & (row < length)
        ds = tl.where(visible, da * _silu_gradient(s), 0.0)
        by_cell += ds
        if TIME:
            bucket = bucket_tile(row_high[:, None], row_low[:, None], key_high[None, :], key_low[None, :])
            low = tl.min(tl.where(visible, bucket, 128))
            high = tl.max(tl.where(visible, bucket, 0))
            by_bucket = _add_sums(by_bucket, ds, bucket, low, high, BUCKETS_P)
    at = ((seq * tl.num_programs(1) + head) * tl.num_programs(0) + band).to(tl.int64)
    if POSITION:                                           # diagonal B - 1 + i - j of the tile, 0 … 2B - 2
        diagonal = B - 1 + index[:, None] - index[None, :]
        sums = _add_sums(tl.zeros([2 * B], tl.float32), by_cell, diagonal, 0, 2 * B - 2, 2 * B)
        tl.store(position_part_ptr + at * 2 * B + tl.arange(0, 2 * B), sums * inverse_n)
    if TIME:
        tl.store(time_part_ptr + at * BUCKETS_P + tl.arange(0, BUCKETS_P), by_bucket * inverse_n)


def _tiling(size: int, value_bytes: int, arch: int) -> dict[str, dict]:
    """Tile sizes and warps for the larger of the two head sizes; the bias kernel's tile is square.

    Hopper and Blackwell read a product's operands from shared memory; before, they take registers.
    """
    wide, one_stage = size > 64, 1
    if arch == 0:
        column, row, bias = (16, 16, 4), (16, 16, 4), (16, 4)
    elif value_bytes > 2:
        column, row = (32, 32, 8), (32, 16, 4)
        small = size <= 32 and not large_shared(arch)
        bias = (32, 8 if small else 4)             # on gaming chips, four warps of small heads spill
    elif large_shared(arch) and arch >= 90:
        column, row, bias = (16 if wide else 64, 128, 8), (64, 16 if wide else 64, 4), (64, 8)
    else:
        warps = 8 if wide and not large_shared(arch) else 4              # on gaming chips, registers spill
        column, row = (16 if wide else 32, 64, warps), (64, 64, 8) if wide else (64, 32, 4)
        bias = (32, warps)
    names = ("BM", "BN", "num_warps", "num_stages")
    return {"column": dict(zip(names, (*column, one_stage))), "row": dict(zip(names, (*row, one_stage))),
            "bias": dict(zip(("B", "num_warps", "num_stages"), (*bias, one_stage)))}


@operator("hstu_attention_backward")
def _backward(dy: Tensor, q: Tensor, k: Tensor, v: Tensor, position_table: Tensor | None,
              time_table: Tensor | None, seq_offsets: Tensor, timestamps: Tensor, max_len: int,
              alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk and dv."""
    heads, requests = q.shape[1], len(seq_offsets) - 1
    tiling, sizes, shared, strides, scales = _arguments(dy, q, k, v, position_table, time_table, seq_offsets,
                                                        timestamps, max_len, alpha)
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    launch(_column_kernel, (triton.cdiv(max_len, tiling["column"]["BN"]), heads, requests),
           q, k, v, dy, dk, dv, *shared, *strides, *row_head_strides(dk, dv), *scales, **sizes,
           **tiling["column"])
    launch(_row_kernel, (triton.cdiv(max_len, tiling["row"]["BM"]), heads, requests),
           q, k, v, dy, dq, *shared, *strides, *row_head_strides(dq), *scales, **sizes, **tiling["row"])
    return dq, dk, dv


@operator("hstu_attention_bias_backward")
def _bias_backward(dy: Tensor, q: Tensor, k: Tensor, v: Tensor, position_table: Tensor | None,
                   time_table: Tensor | None, seq_offsets: Tensor, timestamps: Tensor, max_len: int,
                   alpha: float) -> tuple[Tensor, Tensor]:
    """Parts of the tables' gradients: [requests, H, bands, 2B] and [requests, H, bands, 256]."""
    heads, requests = q.shape[1], len(seq_offsets) - 1
    tiling, sizes, shared, strides, scales = _arguments(dy, q, k, v, position_table, time_table, seq_offsets,
                                                        timestamps, max_len, alpha)
    B, bands = tiling["bias"]["B"], triton.cdiv(max_len, tiling["bias"]["B"])
    position_part = torch.zeros(requests, heads, bands, 2 * B, dtype=torch.float32, device=q.device)
    time_part = torch.zeros(requests, heads, bands, 256, dtype=torch.float32, device=q.device)
    launch(_bias_kernel, (bands, heads, requests),
           q, k, v, dy, position_part, time_part, *shared, *strides, *scales, **sizes, **tiling["bias"],
           BUCKETS_P=256)
    return position_part, time_part


def _arguments(dy, q, k, v, position_table, time_table, seq_offsets, timestamps, max_len, alpha) -> tuple:
    """What the three kernels have in common: tilings, sizes, and three pieces of their argument lists."""
    tables = table_arguments(position_table, time_table, q)
    sizes = hstu_sizes(q, v, position_table, time_table)
    tiling = _tiling(max(sizes["DP"], sizes["VP"]), q.element_size(), arch_of(q))
    shared, scales = (seq_offsets, timestamps, *tables[:2]), (*tables[2:], alpha, 1.0 / max_len)
    return tiling, sizes, shared, row_head_strides(q, k, v, dy), scales


def hstu_backward(dy: Tensor, q: Tensor, k: Tensor, v: Tensor, position_table: Tensor | None,
                  time_table: Tensor | None, seq_offsets: Tensor, timestamps: Tensor, max_len: int,
                  alpha: float,
                  wanted: tuple[bool, bool]) -> tuple[Tensor | None, ...]:
    """dq, dk, dv, d_position_table and d_time_table; `wanted` says which of the tables' are needed."""
    dy = dy if dy.stride(-1) == 1 else dy.contiguous()
    inputs = (dy, q, k, v, position_table, time_table, seq_offsets, timestamps, max_len, alpha)
    dq, dk, dv = _backward(*inputs)
    if not any(wanted):
        return dq, dk, dv, None, None
    position_part, time_part = _bias_backward(*inputs)
    return (dq, dk, dv, _position_gradient(position_part, position_table, max_len) if wanted[0] else None,
            _time_gradient(time_part, time_table) if wanted[1] else None)


def _position_gradient(part: Tensor, table: Tensor, max_len: int) -> Tensor:
    """Partial sums [requests, H, bands, 2B], entry d of a band for distance band * B + d - (B - 1)."""
    B, center = part.shape[-1] // 2, table.shape[-1] // 2
    part = part.sum(0) if table.dim() == 2 else part.sum((0, 1))[None]                   # [H or 1, bands, 2B]
    by_block = F.pad(part[..., :B], (0, 0, 0, 1)) + F.pad(part[..., B:], (0, 0, 1, 0))
    by_distance = by_block.flatten(1)[:, B - 1:B - 1 + max_len]                      # neighbours overlap by B
    grad = torch.zeros(len(part), table.shape[-1], dtype=torch.float32, device=part.device)
    grad[:, center - max_len + 1:center + 1] = by_distance.flip(-1)
    return grad.view(table.shape).to(table.dtype)


def _time_gradient(part: Tensor, table: Tensor) -> Tensor:
    part = part.sum((0, 2)) if table.dim() == 2 else part.sum((0, 1, 2))
    return part[..., :BUCKETS].to(table.dtype)


# A recommender of the paper's sizes, and the small one of model/recommender.py.
COMPILED_SIZES = (("bf16", 2, 64), ("bf16", 2, 128), ("fp32", 4, 64), ("fp32", 4, 8))


def compile_types(kind: str, size: int) -> dict[str, str]:
    """Parameter types of every HSTU kernel for heads of `size` values of `kind`, with float32 tables."""
    types = {f"{x}_ptr": f"*{kind}" for x in ("q", "k", "v", "y", "dy", "dq", "dk", "dv")}
    for x in ("q", "k", "v", "y", "dy", "dq", "dk", "dv"):
        types |= {f"{x}_row": "i32:16", f"{x}_head": "i32" if size % 16 else "i32:16"}
    types |= {f"{x}_ptr": "*fp32" for x in ("position", "time_table", "position_part", "time_part")}
    return types | {"offset_ptr": "*i32", "time_ptr": "*i64", "alpha": "fp32", "inverse_n": "fp32"}


def compile_cases(arch: int) -> list[dict]:
    """What this file has to compile; see gpu/compile.py."""
    cases = []
    for kind, value_bytes, size in COMPILED_SIZES:
        tiling = _tiling(padded(size), value_bytes, arch)
        sizes = {"POSITION": True, "TIME": True, "DH": size, "DP": padded(size), "DV": size,
                 "VP": padded(size)}
        for name, kernel in (("column", _column_kernel), ("row", _row_kernel), ("bias", _bias_kernel)):
            chosen = dict(tiling[name])
            options = {option: chosen.pop(option) for option in ("num_warps", "num_stages")}
            extra = {"BUCKETS_P": 256} if name == "bias" else {}
            cases.append(dict(name=f"{name} {kind} Dh={size}", kernel=kernel, types=compile_types(kind, size),
                              constexprs=sizes | chosen | extra, **options))
    return cases
