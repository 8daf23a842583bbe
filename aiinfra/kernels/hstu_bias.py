"""HSTU's relative bias: how far apart two items are, in positions and in time.

    bias[i, j] = position_table[M - 1 + j - i] + time_table[bucket(t_{i+1} - t_j)]
    bucket(dt) = floor(log(max(|dt|, 1)) / 0.301), at most 128        each bucket 1.35 times as long

A row asks "what comes next?", so it is dated by the *next* item, whose time is known when a
recommendation is asked for; the last item of a sequence has none and uses its own. Position and time
are tables, learned, of 2M - 1 and 129 values, for all heads or for each. The N x N bias itself is never
stored: a kernel makes it tile by tile from the tables, which stay in cache.

Timestamps are int64, tiles want float32: t - t_0 = high * 2^22 + low keeps both parts exact (up to
2^46 time units), and a difference is then rounded once. Zhai et al. 2024, arXiv 2402.17152. Notebook 10b.
"""

import torch
from torch import Tensor

from aiinfra.kernels.lang import tl, triton
from aiinfra.kernels.tiles import padded

BUCKETS = 129
BUCKET_WIDTH = 0.301


def time_buckets(delta: Tensor) -> Tensor:
    """Bucket 0 … 128 of each time difference (int64, any unit). In float64: exact at the edges.

    The kernels take the logarithm in float32, so a difference within 1e-5 (relative) of an edge may
    fall on its other side there.
    """
    return (delta.abs().clamp(min=1).double().log() / BUCKET_WIDTH).long().clamp(max=BUCKETS - 1)


def next_times(timestamps: Tensor) -> Tensor:
    """Of one sequence [T]: the next item's timestamp for each; the last item's own."""
    return torch.cat([timestamps[1:], timestamps[-1:]])


def relative_bias(timestamps: Tensor, position_table: Tensor | None,
                  time_table: Tensor | None) -> Tensor | float:
    """Bias [1 or H, T, T] of one sequence, in plain PyTorch; tables [entries] or [H, entries]."""
    bias, index = 0.0, torch.arange(len(timestamps), device=timestamps.device)
    if position_table is not None:
        center = position_table.shape[-1] // 2
        bias = bias + _rows(position_table)[:, center + index[None, :] - index[:, None]]
    if time_table is not None:
        gaps = next_times(timestamps)[:, None] - timestamps[None, :]
        bias = bias + _rows(time_table)[:, time_buckets(gaps)]
    return bias


def _rows(table: Tensor) -> Tensor:
    return table if table.dim() == 2 else table[None]


@triton.jit
def load_times(time_ptr, index, length, origin):
    """Time since `origin` of items `index` (clamped into the sequence), as float32 high and low parts."""
    since = tl.load(time_ptr + tl.minimum(index, length - 1)) - origin
    return (since >> 22).to(tl.float32), (since & 4194303).to(tl.float32)


@triton.jit
def bucket_tile(row_high, row_low, key_high, key_low):
    """Time buckets of a tile; arguments broadcast against each other."""
    delta = (row_high - key_high) * 4194304.0 + (row_low - key_low)
    octaves = tl.math.log2(tl.maximum(tl.abs(delta), 1.0))
    return tl.minimum((octaves * 2.3028145533552).to(tl.int32), 128)          # ln 2 / 0.301


@triton.jit
def bias_tile(row, key, row_high, row_low, key_high, key_low, position_ptr, time_table_ptr, center,
              POSITION: tl.constexpr, TIME: tl.constexpr):
    """Bias of a tile; row and key broadcast against each other. Rows and keys past the end get any entry."""
    bias = 0.0
    if POSITION:
        at = tl.minimum(tl.maximum(center + key - row, 0), 2 * center)
        bias += tl.load(position_ptr + at).to(tl.float32)
    if TIME:
        bucket = bucket_tile(row_high, row_low, key_high, key_low)
        bias += tl.load(time_table_ptr + bucket).to(tl.float32)
    return bias


def table_arguments(position_table: Tensor | None, time_table: Tensor | None, stand_in: Tensor) -> tuple:
    """(position table, time table, their strides per head, position of distance 0), as kernels take them."""
    position, time = (stand_in if table is None else table.contiguous()
                      for table in (position_table, time_table))
    strides = (0 if table is None or table.dim() == 1 else table.shape[1]
               for table in (position_table, time_table))
    return position, time, *strides, 0 if position_table is None else position_table.shape[-1] // 2


def hstu_sizes(q: Tensor, v: Tensor, position_table: Tensor | None, time_table: Tensor | None) -> dict:
    """The compile-time constants that follow from the arguments' shapes."""
    return {"POSITION": position_table is not None, "TIME": time_table is not None,
            "DH": q.shape[-1], "DP": padded(q.shape[-1]), "DV": v.shape[-1], "VP": padded(v.shape[-1])}
