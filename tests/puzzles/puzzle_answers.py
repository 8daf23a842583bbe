"""Kernels that the tests hand to `check`, as a notebook would define them."""

import triton
import triton.language as tl

SHIFT = tl.constexpr(1)
FACTOR = 2
TABLE = [1, 2, 3]


@triton.jit
def add_constant(x_ptr, z_ptr, c, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    tl.store(z_ptr + offsets, tl.load(x_ptr + offsets) + c)


@triton.jit
def helper(x, c):
    return x + c * SHIFT


@triton.jit
def with_helper(x_ptr, z_ptr, c, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    tl.store(z_ptr + offsets, helper(tl.load(x_ptr + offsets), c))


@triton.jit
def with_plain_constant(x_ptr, z_ptr, c, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    tl.store(z_ptr + offsets, tl.load(x_ptr + offsets) + c * FACTOR / 2)


@triton.jit
def with_list(x_ptr, z_ptr, c, BLOCK: tl.constexpr):
    tl.store(z_ptr, TABLE[0])


@triton.jit
def stub(x_ptr, z_ptr, c, BLOCK: tl.constexpr):
    pass


@triton.jit
def endless(x_ptr, z_ptr, c, BLOCK: tl.constexpr):
    i = 0
    while i < 1:
        x = tl.load(x_ptr + tl.arange(0, BLOCK))
        i = i * 2
    tl.store(z_ptr + tl.arange(0, BLOCK), x)


@triton.jit
def raising(x_ptr, z_ptr, c, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offsets)
    tl.store(z_ptr + offsets, x + tl.arange(0, 4 * BLOCK))


@triton.jit
def misspelt(x_ptr, z_ptr, c, BLOCK: tl.constexpr):
    offsets = tl.arrange(0, BLOCK)
    tl.store(z_ptr + offsets, c)


@triton.jit
def wrong_names(x_ptr, out_ptr, c, BLOCK: tl.constexpr):
    tl.store(out_ptr, c)


@triton.jit
def not_constexpr(x_ptr, z_ptr, c, BLOCK):
    tl.store(z_ptr, c)


@triton.jit
def chatty(x_ptr, z_ptr, c, BLOCK: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offsets)
    tl.device_print("first", c)
    tl.store(z_ptr + offsets, x + c)


@triton.jit
def tiled_outer_sum(x_ptr, y_ptr, z_ptr, N, M, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr):
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    x = tl.load(x_ptr + n, mask=n < N)
    y = tl.load(y_ptr + m, mask=m < M)
    mask = (n[:, None] < N) & (m[None, :] < M)
    tl.store(z_ptr + n[:, None] * M + m[None, :], x[:, None] + y[None, :], mask=mask)


def plain(x_ptr, z_ptr, c, BLOCK):
    return None


@triton.constexpr_function
def following(n):
    return n + 1


@triton.constexpr_function
def one_more(n):
    return following(n)


@triton.jit
def with_constexpr_function(x_ptr, z_ptr, c, BLOCK: tl.constexpr):
    NEXT: tl.constexpr = one_more(BLOCK)
    offsets = tl.arange(0, triton.next_power_of_2(NEXT - 1))
    tl.store(z_ptr + offsets, tl.load(x_ptr + offsets) + c)


@triton.autotune(configs=[triton.Config({"BLOCK": 64}), triton.Config({"BLOCK": 128})], key=["N"])
@triton.heuristics({"num_warps": lambda args: 4})
@triton.jit
def tuned(x_ptr, z_ptr, N, c, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offsets, mask=offsets < N)
    tl.store(z_ptr + offsets, x + c, mask=offsets < N)
