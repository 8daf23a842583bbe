"""Right answers to mul_relu in unusual valid forms, each below a line that says what is unusual."""

import triton
import triton.language as tl


# --- tl.where for the maximum, and a mask made of two helpers
@triton.jit
def below(at, end):
    return (at >= 0) & (at < end)


@triton.jit
def mul_relu(x_ptr, y_ptr, z_ptr, N, M, stride_xn, stride_xm, stride_zn, stride_zm,
             BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr):
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
    inside = below(n, N) & below(m, M)
    product = tl.load(x_ptr + n * stride_xn + m * stride_xm, inside) * tl.load(y_ptr + m, below(m, M))
    tl.store(z_ptr + n * stride_zn + m * stride_zm, tl.where(product < 0, 0.0, product), inside)


# --- block pointers with any strides
@triton.jit
def mul_relu(x_ptr, y_ptr, z_ptr, N, M, stride_xn, stride_xm, stride_zn, stride_zm,
             BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr):
    i = tl.program_id(0) * BLOCK_N
    j = tl.program_id(1) * BLOCK_M
    x = tl.make_block_ptr(x_ptr, (N, M), (stride_xn, stride_xm), (i, j), (BLOCK_N, BLOCK_M), (1, 0))
    y = tl.make_block_ptr(y_ptr, (M,), (1,), (j,), (BLOCK_M,), (0,))
    z = tl.make_block_ptr(z_ptr, (N, M), (stride_zn, stride_zm), (i, j), (BLOCK_N, BLOCK_M), (1, 0))
    product = tl.load(x, boundary_check=(0, 1)) * tl.load(y, boundary_check=(0,))[None, :]
    tl.store(z, tl.maximum(product, 0), boundary_check=(0, 1))


# --- row by row with a pointer that moves on, out when the rows end
@triton.jit
def mul_relu(x_ptr, y_ptr, z_ptr, N, M, stride_xn, stride_xm, stride_zn, stride_zm,
             BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr):
    row = tl.program_id(0) * BLOCK_N
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    y = tl.load(y_ptr + m, mask=m < M, other=0.0)
    x = x_ptr + row * stride_xn + m * stride_xm
    z = z_ptr + row * stride_zn + m * stride_zm
    end = tl.minimum(row + BLOCK_N, N)
    while row < end:
        product = tl.load(x, mask=m < M, other=0.0) * y
        tl.store(z, product * (product > 0), mask=m < M)
        x += stride_xn
        z += stride_zn
        row += 1
