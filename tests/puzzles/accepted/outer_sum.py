"""Right answers to outer_sum in unusual valid forms, each below a line that says what is unusual."""

import triton
import triton.language as tl


# --- row by row, with a scalar of x
@triton.jit
def outer_sum(x_ptr, y_ptr, z_ptr, N, M, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr):
    m = tl.arange(0, BLOCK_M)
    y = tl.load(y_ptr + m, mask=m < M, other=0.0)
    for n in range(min(N, BLOCK_N)):
        tl.store(z_ptr + n * M + m, tl.load(x_ptr + n) + y, mask=m < M)


# --- one flat block of BLOCK_N * BLOCK_M lanes
@triton.jit
def outer_sum(x_ptr, y_ptr, z_ptr, N, M, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr):
    lane = tl.arange(0, BLOCK_N * BLOCK_M)
    n = lane // BLOCK_M
    m = lane % BLOCK_M
    inside = (n < N) & (m < M)
    z = tl.load(x_ptr + n, mask=inside, other=0.0) + tl.load(y_ptr + m, mask=inside, other=0.0)
    tl.store(z_ptr + n * M + m, z, mask=inside)


# --- the tile stands on its side until it is stored
@triton.jit
def outer_sum(x_ptr, y_ptr, z_ptr, N, M, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr):
    n = tl.arange(0, BLOCK_N)
    m = tl.arange(0, BLOCK_M)
    x = tl.broadcast_to(tl.load(x_ptr + n, mask=n < N, other=0.0)[None, :], [BLOCK_M, BLOCK_N])
    y = tl.expand_dims(tl.load(y_ptr + m, mask=m < M, other=0.0), 1)
    inside = tl.expand_dims(n < N, 1) & tl.expand_dims(m < M, 0)
    tl.store(z_ptr + tl.expand_dims(n * M, 1) + tl.expand_dims(m, 0), tl.trans(x + y), mask=inside)


# --- a block pointer for the tile
@triton.jit
def outer_sum(x_ptr, y_ptr, z_ptr, N, M, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr):
    n = tl.arange(0, BLOCK_N)
    m = tl.arange(0, BLOCK_M)
    x = tl.load(x_ptr + n, mask=n < N, other=0.0)
    y = tl.load(y_ptr + m, mask=m < M, other=0.0)
    z = tl.make_block_ptr(z_ptr, (N, M), (M, 1), (0, 0), (BLOCK_N, BLOCK_M), (1, 0))
    tl.store(z, x[:, None] + y[None, :], boundary_check=(0, 1))
