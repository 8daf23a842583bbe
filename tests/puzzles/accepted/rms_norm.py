"""Right answers to rms_norm in unusual valid forms, each below a line that says what is unusual."""

import triton
import triton.language as tl


# --- the reciprocal of the root, and of D
@triton.jit
def rms_norm(x_ptr, weight_ptr, y_ptr, N, D, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    d = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * D + d, mask=d < D, other=0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, 0) * (1.0 / D) + eps)
    y = x * scale * tl.load(weight_ptr + d, mask=d < D)
    tl.store(y_ptr + row * D + d, y.to(tl.float16), mask=d < D)


# --- float64 in the middle
@triton.jit
def rms_norm(x_ptr, weight_ptr, y_ptr, N, D, eps, BLOCK: tl.constexpr):
    d = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + tl.program_id(0) * D + d, mask=d < D, other=0.0).to(tl.float64)
    mean = tl.sum(x * x, 0) / D
    y = x / tl.sqrt(mean + eps) * tl.load(weight_ptr + d, mask=d < D, other=0.0)
    tl.store(y_ptr + tl.program_id(0) * D + d, y, mask=d < D)


# --- a tile of one row, and tl.where in place of other=
@triton.jit
def rms_norm(x_ptr, weight_ptr, y_ptr, N, D, eps, BLOCK: tl.constexpr):
    n = tl.program_id(0) + tl.arange(0, 1)[:, None]
    d = tl.arange(0, BLOCK)[None, :]
    x = tl.load(x_ptr + n * D + d, mask=d < D)
    x = tl.where(d < D, x, 0.0).to(tl.float32)
    weight = tl.load(weight_ptr + d, mask=d < D)
    y = weight * (x / tl.sqrt(tl.sum(x * x / D, axis=1, keep_dims=True) + eps))
    tl.store(y_ptr + n * D + d, y, mask=d < D)
