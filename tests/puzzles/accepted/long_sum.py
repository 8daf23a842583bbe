"""Right answers to long_sum in unusual valid forms, each below a line that says what is unusual."""

import triton
import triton.language as tl


# --- a scalar total of each block
@triton.jit
def long_sum(x_ptr, z_ptr, N, M, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    total = 0.0
    for start in tl.range(0, M, BLOCK, num_stages=2):
        m = start + tl.arange(0, BLOCK)
        total += tl.sum(tl.load(x_ptr + row * M + m, mask=m < M, other=0.0))
    tl.store(z_ptr + row, total)


# --- a while loop from the last block to the first, with tl.where for other=
@triton.jit
def long_sum(x_ptr, z_ptr, N, M, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    block = tl.cdiv(M, BLOCK) - 1
    acc = tl.zeros([BLOCK], tl.float32)
    while block >= 0:
        m = block * BLOCK + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * M + m, mask=m < M)
        acc = acc + tl.where(m < M, x, 0.0)
        block -= 1
    tl.store(z_ptr + row, tl.sum(acc, axis=0))


# --- half a block at a time, the half from a constexpr function
@triton.constexpr_function
def half(n):
    return max(n // 2, 1)


@triton.jit
def long_sum(x_ptr, z_ptr, N, M, BLOCK: tl.constexpr):
    HALF: tl.constexpr = half(BLOCK)
    row = tl.program_id(0)
    acc = tl.zeros([HALF], dtype=tl.float32)
    for start in range(0, M, HALF):
        m = start + tl.arange(0, HALF)
        acc += tl.load(x_ptr + row * M + m, mask=m < M, other=0.0)
    tl.store(z_ptr + row, tl.sum(acc, 0))


# --- float64 lanes, an associative scan, and the last of its lanes
@triton.jit
def add(a, b):
    return a + b


@triton.jit
def long_sum(x_ptr, z_ptr, N, M, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    acc = tl.zeros([BLOCK], dtype=tl.float64)
    for start in range(0, M, BLOCK):
        acc += tl.load(x_ptr + row * M + start + i, mask=start + i < M, other=0.0).to(tl.float64)
    running = tl.associative_scan(acc, 0, add)
    tl.store(z_ptr + row, tl.sum(tl.where(i == BLOCK - 1, running, 0.0), 0).to(tl.float32))


# --- what rounding lost is carried along (Kahan), and tl.reduce with a function of one's own
@triton.jit
def plus(a, b):
    return a + b


@triton.jit
def long_sum(x_ptr, z_ptr, N, M, BLOCK: tl.constexpr):
    pointers = x_ptr + tl.program_id(0) * M + tl.arange(0, BLOCK)
    left = M - tl.arange(0, BLOCK)
    acc = tl.zeros([BLOCK], dtype=tl.float32)
    lost = tl.zeros_like(acc)
    for start in range(0, M, BLOCK):
        x = tl.load(pointers + start, mask=start < left, other=0.0) - lost
        new = acc + x
        lost = (new - acc) - x
        acc = new
    tl.store(z_ptr + tl.program_id(0), tl.reduce(acc, 0, plus))
