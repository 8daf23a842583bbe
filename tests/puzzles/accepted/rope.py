"""Right answers to rope in unusual valid forms, each below a line that says what is unusual."""

import triton
import triton.language as tl


# --- the row in one load, cut into its halves by reshape and split
@triton.jit
def rope(x_ptr, cos_ptr, sin_ptr, position_ptr, y_ptr, N, H, P, stride_xn, stride_xh, stride_xd,
         D: tl.constexpr, BLOCK_H: tl.constexpr):
    n = tl.program_id(0)
    h = tl.arange(0, BLOCK_H)[:, None]
    d = tl.arange(0, D)[None, :]
    at = tl.load(position_ptr + n) * (D // 2) + tl.arange(0, D // 2)[None, :]
    x = tl.load(x_ptr + n * stride_xn + h * stride_xh + d * stride_xd, mask=h < H, other=0.0)
    low, high = tl.split(tl.permute(tl.reshape(x, (BLOCK_H, 2, D // 2)), (0, 2, 1)))
    c, s = tl.load(cos_ptr + at), tl.load(sin_ptr + at)
    turned = tl.join(low * c - high * s, high * c + low * s)
    y = tl.reshape(tl.permute(turned, (0, 2, 1)), (BLOCK_H, D))
    tl.store(y_ptr + n * H * D + h * D + d, y, mask=h < H)


# --- head after head
@triton.jit
def rope(x_ptr, cos_ptr, sin_ptr, position_ptr, y_ptr, N, H, P, stride_xn, stride_xh, stride_xd,
         D: tl.constexpr, BLOCK_H: tl.constexpr):
    HALF: tl.constexpr = D // 2
    n = tl.program_id(0)
    i = tl.arange(0, HALF)
    p = tl.load(position_ptr + n)
    c = tl.load(cos_ptr + p * HALF + i)
    s = tl.load(sin_ptr + p * HALF + i)
    for h in range(tl.minimum(H, BLOCK_H)):
        x = x_ptr + n * stride_xn + h * stride_xh
        low = tl.load(x + i * stride_xd)
        high = tl.load(x + (i + HALF) * stride_xd)
        y = y_ptr + (n * H + h) * D
        tl.store(y + i, low * c - high * s)
        tl.store(y + i + HALF, high * c + low * s)


# --- pairs on a third axis, with a sign
@triton.jit
def rope(x_ptr, cos_ptr, sin_ptr, position_ptr, y_ptr, N, H, P, stride_xn, stride_xh, stride_xd,
         D: tl.constexpr, BLOCK_H: tl.constexpr):
    n = tl.program_id(0).to(tl.int64)
    h = tl.arange(0, BLOCK_H)[:, None, None]
    half = tl.arange(0, 2)[None, :, None]
    i = tl.arange(0, D // 2)[None, None, :]
    inside = (h < H) & (half < 2) & (i < D // 2)
    at = tl.load(position_ptr + n) * (D // 2) + i
    d = half * (D // 2) + i
    x = tl.load(x_ptr + n * stride_xn + h * stride_xh + d * stride_xd, mask=inside, other=0.0)
    low = tl.sum(tl.where(half == 0, x, 0.0), axis=1, keep_dims=True)
    high = tl.sum(tl.where(half == 1, x, 0.0), axis=1, keep_dims=True)
    other = tl.where(half == 0, -high, low)
    y = x * tl.load(cos_ptr + at) + other * tl.load(sin_ptr + at)
    tl.store(y_ptr + (n * H + h) * D + d, y, mask=inside)
