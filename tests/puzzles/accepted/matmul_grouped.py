"""Right answers to matmul_grouped in unusual valid forms, each below a line that says what is unusual."""

import triton
import triton.language as tl


# --- tl.swizzle2d for the order
@triton.jit
def matmul_grouped(a_ptr, b_ptr, c_ptr, M, N, K, GROUP: tl.constexpr,
                   BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    pid = tl.program_id(0)
    rows, columns = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    i, j = tl.swizzle2d(pid // columns, pid % columns, rows, columns, GROUP)
    m = i * BLOCK_M + tl.arange(0, BLOCK_M)
    n = j * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        a = tl.load(a_ptr + m[:, None] * K + k[None, :], mask=(m[:, None] < M) & (k[None, :] < K), other=0.0)
        b = tl.load(b_ptr + k[:, None] * N + n[None, :], mask=(k[:, None] < K) & (n[None, :] < N), other=0.0)
        acc = tl.dot(a, b, acc, input_precision="ieee")
    tl.store(c_ptr + m[:, None] * N + n[None, :], acc, mask=(m[:, None] < M) & (n[None, :] < N))


# --- helpers for the order and for a tile
@triton.jit
def tile_of(pid, rows, columns, GROUP: tl.constexpr):
    in_group = GROUP * columns
    first = (pid // in_group) * GROUP
    height = min(rows - first, GROUP)
    return first + (pid % in_group) % height, (pid % in_group) // height


@triton.jit
def tile(ptr, i, j, rows, columns):
    at = i[:, None] * columns + j[None, :]
    return tl.load(ptr + at, mask=(i[:, None] < rows) & (j[None, :] < columns), other=0.0)


@triton.jit
def matmul_grouped(a_ptr, b_ptr, c_ptr, M, N, K, GROUP: tl.constexpr,
                   BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    i, j = tile_of(tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N), GROUP)
    m = i * BLOCK_M + tl.arange(0, BLOCK_M)
    n = j * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    start = 0
    while start < K:
        k = start + tl.arange(0, BLOCK_K)
        acc += tl.dot(tile(a_ptr, m, k, M, K), tile(b_ptr, k, n, K, N), input_precision="ieee")
        start += BLOCK_K
    tl.store(c_ptr + m[:, None] * N + n[None, :], acc, mask=(m[:, None] < M) & (n[None, :] < N))


# --- the group is found by counting down
@triton.jit
def matmul_grouped(a_ptr, b_ptr, c_ptr, M, N, K, GROUP: tl.constexpr,
                   BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    left = tl.program_id(0)
    rows, columns = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    first = 0
    while left >= tl.minimum(GROUP, rows - first) * columns:
        left -= tl.minimum(GROUP, rows - first) * columns
        first += GROUP
    height = tl.minimum(GROUP, rows - first)
    i = (first + left - left // height * height) * BLOCK_M
    j = left // height * BLOCK_N
    a = tl.make_block_ptr(a_ptr, (M, K), (K, 1), (i, 0), (BLOCK_M, BLOCK_K), (1, 0))
    b = tl.make_block_ptr(b_ptr, (K, N), (N, 1), (0, j), (BLOCK_K, BLOCK_N), (1, 0))
    acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for _ in range(0, K, BLOCK_K):
        x = tl.load(a, boundary_check=(0, 1), padding_option="zero")
        acc = tl.dot(x, tl.load(b, boundary_check=(0, 1), padding_option="zero"), acc, input_precision="ieee")
        a, b = a.advance((0, BLOCK_K)), b.advance((BLOCK_K, 0))
    c = tl.make_block_ptr(c_ptr, (M, N), (N, 1), (i, j), (BLOCK_M, BLOCK_N), (1, 0))
    tl.store(c, acc, boundary_check=(0, 1))
