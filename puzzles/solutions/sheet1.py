"""Sheet 1, first blocks: one answer to each puzzle. Read as text by the judge."""

import triton
import triton.language as tl


@triton.jit
def add_constant(x_ptr, z_ptr, c, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offsets)
    tl.store(z_ptr + offsets, x + c)


@triton.jit
def add_blocks(x_ptr, z_ptr, N, c, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < N
    x = tl.load(x_ptr + offsets, mask=mask)
    tl.store(z_ptr + offsets, x + c, mask=mask)


@triton.jit
def outer_sum(x_ptr, y_ptr, z_ptr, N, M, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr):
    n = tl.arange(0, BLOCK_N)
    m = tl.arange(0, BLOCK_M)
    x = tl.load(x_ptr + n, mask=n < N)
    y = tl.load(y_ptr + m, mask=m < M)
    mask = (n[:, None] < N) & (m[None, :] < M)
    tl.store(z_ptr + n[:, None] * M + m[None, :], x[:, None] + y[None, :], mask=mask)


def grid_of_outer_sum_2d(meta):
    return triton.cdiv(meta["N"], meta["BLOCK_N"]), triton.cdiv(meta["M"], meta["BLOCK_M"])


@triton.jit
def outer_sum_2d(x_ptr, y_ptr, z_ptr, N, M, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr):
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    x = tl.load(x_ptr + n, mask=n < N)
    y = tl.load(y_ptr + m, mask=m < M)
    mask = (n[:, None] < N) & (m[None, :] < M)
    tl.store(z_ptr + n[:, None] * M + m[None, :], x[:, None] + y[None, :], mask=mask)


@triton.jit
def mul_relu(x_ptr, y_ptr, z_ptr, N, M, stride_xn, stride_xm, stride_zn, stride_zm,
             BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr):
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    mask = (n[:, None] < N) & (m[None, :] < M)
    x = tl.load(x_ptr + n[:, None] * stride_xn + m[None, :] * stride_xm, mask=mask)
    y = tl.load(y_ptr + m, mask=m < M)
    z = tl.maximum(x * y[None, :], 0.0)
    tl.store(z_ptr + n[:, None] * stride_zn + m[None, :] * stride_zm, z, mask=mask)


@triton.jit
def mul_relu_backward(x_ptr, y_ptr, dz_ptr, dx_ptr, N, M, stride_xn, stride_xm, stride_dzn, stride_dzm,
                      BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr):
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    mask = (n[:, None] < N) & (m[None, :] < M)
    x = tl.load(x_ptr + n[:, None] * stride_xn + m[None, :] * stride_xm, mask=mask)
    dz = tl.load(dz_ptr + n[:, None] * stride_dzn + m[None, :] * stride_dzm, mask=mask)
    y = tl.load(y_ptr + m, mask=m < M)[None, :]
    dx = tl.where(x * y > 0, dz * y, 0.0)
    tl.store(dx_ptr + n[:, None] * M + m[None, :], dx, mask=mask)
