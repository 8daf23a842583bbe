"""Right answers to mul_relu_backward in unusual valid forms, each below a line that says what is unusual."""

import triton
import triton.language as tl


# --- a product with the condition as a number
@triton.jit
def mul_relu_backward(x_ptr, y_ptr, dz_ptr, dx_ptr, N, M, stride_xn, stride_xm, stride_dzn, stride_dzm,
                      BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr):
    n = (tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N))[:, None]
    m = (tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M))[None, :]
    inside = (n < N) & (m < M)
    x = tl.load(x_ptr + n * stride_xn + m * stride_xm, mask=inside, other=0.0)
    dz = tl.load(dz_ptr + n * stride_dzn + m * stride_dzm, mask=inside, other=0.0)
    y = tl.load(y_ptr + m, mask=m < M, other=0.0)
    tl.store(dx_ptr + n * M + m, (x * y > 0).to(tl.float32) * y * dz, mask=inside)


# --- the signs instead of the product
@triton.jit
def mul_relu_backward(x_ptr, y_ptr, dz_ptr, dx_ptr, N, M, stride_xn, stride_xm, stride_dzn, stride_dzm,
                      BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr):
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = (n < N)[:, None] & (m < M)[None, :]
    x = tl.load(x_ptr + n[:, None] * stride_xn + m[None, :] * stride_xm, mask=inside, other=0.0)
    y = tl.load(y_ptr + m, mask=m < M, other=0.0)[None, :]
    same = ((x > 0) & (y > 0)) | ((x < 0) & (y < 0))
    dz = tl.load(dz_ptr + n[:, None] * stride_dzn + m[None, :] * stride_dzm, mask=inside & same, other=0.0)
    tl.store(dx_ptr + n[:, None] * M + m[None, :], dz * y, mask=inside)


# --- column by column
@triton.jit
def mul_relu_backward(x_ptr, y_ptr, dz_ptr, dx_ptr, N, M, stride_xn, stride_xm, stride_dzn, stride_dzm,
                      BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr):
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    for m in range(tl.program_id(1) * BLOCK_M, tl.minimum((tl.program_id(1) + 1) * BLOCK_M, M)):
        y = tl.load(y_ptr + m)
        x = tl.load(x_ptr + n * stride_xn + m * stride_xm, mask=n < N, other=0.0)
        dz = tl.load(dz_ptr + n * stride_dzn + m * stride_dzm, mask=n < N, other=0.0)
        tl.store(dx_ptr + n * M + m, tl.where(x * y > 0, dz * y, tl.zeros_like(dz)), mask=n < N)
