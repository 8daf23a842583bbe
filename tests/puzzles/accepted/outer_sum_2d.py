"""Right answers to outer_sum_2d in unusual valid forms, each below a line that says what is unusual."""

import triton
import triton.language as tl


# --- a flat grid, and the tile from the number of the program
@triton.jit
def outer_sum_2d(x_ptr, y_ptr, z_ptr, N, M, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr):
    across = tl.cdiv(M, BLOCK_M)
    n = tl.program_id(0) // across * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.program_id(0) % across * BLOCK_M + tl.arange(0, BLOCK_M)
    x = tl.load(x_ptr + n, mask=n < N)
    y = tl.load(y_ptr + m, mask=m < M)
    tl.store(z_ptr + n[:, None] * M + m, x[:, None] + y, mask=(n[:, None] < N) & (m < M))


def grid_of_outer_sum_2d(meta):
    return (triton.cdiv(meta["N"], meta["BLOCK_N"]) * triton.cdiv(meta["M"], meta["BLOCK_M"]),)


# --- columns on axis 0, rows on axis 2 of three
@triton.jit
def outer_sum_2d(x_ptr, y_ptr, z_ptr, N, M, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr):
    n = tl.program_id(2) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
    z = tl.load(x_ptr + n, mask=n < N, other=0) + tl.load(y_ptr + m, mask=m < M, other=0)
    tl.store(z_ptr + n * M + m, z, mask=(n < N) & (m < M))


def grid_of_outer_sum_2d(meta):
    return -(-meta["M"] // meta["BLOCK_M"]), 1, -(-meta["N"] // meta["BLOCK_N"])


# --- a few programs that stay: each walks over every third tile
@triton.jit
def outer_sum_2d(x_ptr, y_ptr, z_ptr, N, M, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr):
    down = tl.cdiv(N, BLOCK_N)
    across = tl.cdiv(M, BLOCK_M)
    for tile in range(tl.program_id(0), down * across, tl.num_programs(0)):
        n = tile // across * BLOCK_N + tl.arange(0, BLOCK_N)
        m = tile % across * BLOCK_M + tl.arange(0, BLOCK_M)
        x = tl.load(x_ptr + n, mask=n < N, other=0.0)
        y = tl.load(y_ptr + m, mask=m < M, other=0.0)
        inside = (n < N)[:, None] & (m < M)[None, :]
        tl.store(z_ptr + n[:, None] * M + m[None, :], x[:, None] + y[None, :], mask=inside)


def grid_of_outer_sum_2d(meta):
    return (min(3, triton.cdiv(meta["N"], meta["BLOCK_N"]) * triton.cdiv(meta["M"], meta["BLOCK_M"])),)
