"""Right answers to conv2d in unusual valid forms, each below a line that says what is unusual."""

import triton
import triton.language as tl


# --- one loop over all weights, the last first
@triton.jit
def conv2d(x_ptr, k_ptr, z_ptr, B, H, W, KH, KW, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr):
    image = tl.program_id(0) * H * W
    h = (tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H))[:, None]
    w = (tl.program_id(2) * BLOCK_W + tl.arange(0, BLOCK_W))[None, :]
    acc = tl.zeros([BLOCK_H, BLOCK_W], dtype=tl.float32)
    left = KH * KW
    while left > 0:
        left -= 1
        i, j = h + left // KW, w + left % KW
        x = tl.load(x_ptr + image + i * W + j, mask=(i < H) & (j < W), other=0.0)
        acc = tl.fma(x, tl.load(k_ptr + left), acc)
    tl.store(z_ptr + image + h * W + w, acc, mask=(h < H) & (w < W))


# --- block pointers that step over the image, columns outside
@triton.jit
def conv2d(x_ptr, k_ptr, z_ptr, B, H, W, KH, KW, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr):
    image = tl.program_id(0) * H * W
    i = tl.program_id(1) * BLOCK_H
    j = tl.program_id(2) * BLOCK_W
    acc = tl.zeros([BLOCK_H, BLOCK_W], dtype=tl.float32)
    for dj in range(KW):
        x = tl.make_block_ptr(x_ptr + image, (H, W), (W, 1), (i, j + dj), (BLOCK_H, BLOCK_W), (1, 0))
        for di in range(KH):
            acc += tl.load(x, boundary_check=(0, 1), padding_option="zero") * tl.load(k_ptr + di * KW + dj)
            x = tl.advance(x, (1, 0))
    z = tl.make_block_ptr(z_ptr + image, (H, W), (W, 1), (i, j), (BLOCK_H, BLOCK_W), (1, 0))
    tl.store(z, acc, boundary_check=(0, 1))


# --- row by row of the tile, in float64
@triton.jit
def conv2d(x_ptr, k_ptr, z_ptr, B, H, W, KH, KW, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr):
    w = tl.program_id(2) * BLOCK_W + tl.arange(0, BLOCK_W)
    first = tl.program_id(1) * BLOCK_H
    for h in range(first, tl.minimum(first + BLOCK_H, H)):
        acc = tl.zeros([BLOCK_W], dtype=tl.float64)
        row = (tl.program_id(0) * H + h) * W
        for di in range(0, tl.minimum(KH, H - h)):
            for dj in range(0, KW):
                x = tl.load(x_ptr + row + di * W + w + dj, mask=w + dj < W, other=0.0)
                acc += x.to(tl.float64) * tl.load(k_ptr + di * KW + dj)
        tl.store(z_ptr + row + w, acc.to(tl.float32), mask=w < W)
