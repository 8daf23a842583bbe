"""Right answers to grouped_matmul in unusual valid forms, each below a line that says what is unusual."""

import triton
import triton.language as tl


# --- programs without rows return at once
@triton.jit
def grouped_matmul(x_ptr, w_ptr, offset_ptr, y_ptr, N, E, D, F,
                   BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_D: tl.constexpr):
    e = tl.program_id(0)
    begin, end = tl.load(offset_ptr + e), tl.load(offset_ptr + e + 1)
    begin += tl.program_id(1) * BLOCK_N
    if begin >= end:
        return
    n = begin + tl.arange(0, BLOCK_N)[:, None]
    f = tl.program_id(2) * BLOCK_F + tl.arange(0, BLOCK_F)[None, :]
    w_ptr += e * D * F
    acc = tl.zeros([BLOCK_N, BLOCK_F], dtype=tl.float32)
    for step in range(tl.cdiv(D, BLOCK_D) - 1, -1, -1):
        d = step * BLOCK_D + tl.arange(0, BLOCK_D)
        x = tl.load(x_ptr + n * D + d[None, :], mask=(n < end) & (d[None, :] < D), other=0.0)
        w = tl.load(w_ptr + d[:, None] * F + f, mask=(d[:, None] < D) & (f < F), other=0.0)
        acc += tl.dot(x, w, input_precision="ieee")
    tl.store(y_ptr + n * F + f, acc, mask=(n < end) & (f < F))


# --- no branch: everything is masked
@triton.jit
def grouped_matmul(x_ptr, w_ptr, offset_ptr, y_ptr, N, E, D, F,
                   BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_D: tl.constexpr):
    e = tl.program_id(0)
    n = tl.load(offset_ptr + e) + tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    rows = n < tl.load(offset_ptr + e + 1)
    f = tl.program_id(2) * BLOCK_F + tl.arange(0, BLOCK_F)
    turned = tl.zeros([BLOCK_F, BLOCK_N], dtype=tl.float32)
    for start in range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        x = tl.load(x_ptr + n[None, :] * D + d[:, None], mask=rows[None, :] & (d < D)[:, None], other=0.0)
        w = tl.load(w_ptr + (e * D + d)[None, :] * F + f[:, None], mask=(d < D)[None, :] & (f < F)[:, None],
                    other=0.0)
        turned = tl.dot(w, x, turned, input_precision="ieee")
    tl.store(y_ptr + n[:, None] * F + f[None, :], turned.T, mask=rows[:, None] & (f < F)[None, :])


# --- block pointers cut at the expert's own rows
@triton.jit
def grouped_matmul(x_ptr, w_ptr, offset_ptr, y_ptr, N, E, D, F,
                   BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_D: tl.constexpr):
    e, i, j = tl.program_id(0), tl.program_id(1) * BLOCK_N, tl.program_id(2) * BLOCK_F
    first = tl.load(offset_ptr + e)
    rows = tl.load(offset_ptr + e + 1) - first
    if i < rows:
        x = tl.make_block_ptr(x_ptr + first * D, (rows, D), (D, 1), (i, 0), (BLOCK_N, BLOCK_D), (1, 0))
        w = tl.make_block_ptr(w_ptr + e * D * F, (D, F), (F, 1), (0, j), (BLOCK_D, BLOCK_F), (1, 0))
        y = tl.make_block_ptr(y_ptr + first * F, (rows, F), (F, 1), (i, j), (BLOCK_N, BLOCK_F), (1, 0))
        acc = tl.zeros([BLOCK_N, BLOCK_F], dtype=tl.float32)
        for _ in range(0, D, BLOCK_D):
            tile = tl.load(x, boundary_check=(0, 1), padding_option="zero")
            weights = tl.load(w, boundary_check=(0, 1), padding_option="zero")
            acc = tl.dot(tile, weights, acc, input_precision="ieee")
            x, w = tl.advance(x, (0, BLOCK_D)), tl.advance(w, (BLOCK_D, 0))
        tl.store(y, acc, boundary_check=(0, 1))
