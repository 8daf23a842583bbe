"""The pieces that attention kernels share: read a tile of rows, write one, and who sees which key.

    packed tensor [rows, heads, DH]          a tile: rows r, r+1, …  x  DP columns
                                             DP is DH rounded up to a power of two, zeros past DH

Triton inlines these functions, so they cost nothing at run time. Notebook 10.
"""

from torch import Tensor

from aiinfra.kernels.lang import tl, triton


@triton.jit
def load_tile(ptr, row_stride, row, rows, CHECK: tl.constexpr, DH: tl.constexpr, DP: tl.constexpr):
    """[len(row), DP] values; zeros past column DH and, if CHECK, past `rows` rows."""
    col = tl.arange(0, DP)
    at = ptr + row[:, None] * row_stride + col[None, :]
    if CHECK and DP == DH:
        tile = tl.load(at, mask=row[:, None] < rows, other=0.0)
    elif CHECK:
        tile = tl.load(at, mask=(row[:, None] < rows) & (col[None, :] < DH), other=0.0)
    elif DP == DH:
        tile = tl.load(at)
    else:
        tile = tl.load(at, mask=col[None, :] < DH, other=0.0)
    return tile


@triton.jit
def store_tile(ptr, row_stride, row, rows, tile, DH: tl.constexpr, DP: tl.constexpr):
    """Write the tile's rows below `rows` and its columns below DH, in the tensor's dtype."""
    col = tl.arange(0, DP)
    at = ptr + row[:, None] * row_stride + col[None, :]
    tl.store(at, tile.to(ptr.dtype.element_ty), mask=(row[:, None] < rows) & (col[None, :] < DH))


@triton.jit
def row_limits(row0, rows, keys, CAUSAL: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """For rows row0:row0+BM: keys below `full` are seen by all of them, keys from `end` by none."""
    if CAUSAL:
        full = tl.minimum(keys, tl.maximum(row0 + 1 + keys - rows, 0)) // BN * BN
        end = tl.minimum(keys, tl.maximum(row0 + BM + keys - rows, 0))
        last_key = row0 + tl.arange(0, BM) + keys - rows
    else:
        full = keys // BN * BN
        end = keys
        last_key = tl.zeros([BM], tl.int32) + keys - 1
    return full, end, tl.minimum(last_key, keys - 1)


def padded(size: int) -> int:
    """`size` rounded up to a power of two, and to the 16 that tensor cores want."""
    return max(16, triton.next_power_of_2(size))


def head_sizes(q: Tensor, k: Tensor, causal: bool) -> dict:
    """The compile-time constants of flash attention that follow from its arguments."""
    size = q.shape[-1]
    return {"GROUP": q.shape[1] // k.shape[1], "CAUSAL": causal, "DH": size, "DP": padded(size)}


def row_head_strides(*tensors: Tensor) -> list[int]:
    """Row and head stride of each [N, heads, Dh] tensor."""
    return [stride for x in tensors for stride in x.stride()[:2]]
