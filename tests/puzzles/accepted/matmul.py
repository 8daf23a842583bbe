"""Right answers to matmul in unusual valid forms, each below a line that says what is unusual."""

import triton
import triton.language as tl


# --- pointers that move on, and rows that wrap around in place of masks
@triton.jit
def matmul(a_ptr, b_ptr, c_ptr, M, N, K, stride_am, stride_ak, stride_bk, stride_bn,
           BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    m = (tl.program_id(axis=0) * BLOCK_M + tl.arange(0, BLOCK_M)) % M
    n = (tl.program_id(axis=1) * BLOCK_N + tl.arange(0, BLOCK_N)) % N
    k = tl.arange(0, BLOCK_K)
    a_ptrs = a_ptr + (m[:, None] * stride_am + k[None, :] * stride_ak)
    b_ptrs = b_ptr + (k[:, None] * stride_bk + n[None, :] * stride_bn)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in range(0, tl.cdiv(K, BLOCK_K)):
        a = tl.load(a_ptrs, mask=k[None, :] < K - step * BLOCK_K, other=0.0)
        b = tl.load(b_ptrs, mask=k[:, None] < K - step * BLOCK_K, other=0.0)
        acc += tl.dot(a, b, input_precision="ieee")
        a_ptrs += BLOCK_K * stride_ak
        b_ptrs += BLOCK_K * stride_bk
    m = tl.program_id(axis=0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(axis=1) * BLOCK_N + tl.arange(0, BLOCK_N)
    tl.store(c_ptr + N * m[:, None] + n[None, :], acc, mask=(m[:, None] < M) & (n[None, :] < N))


# --- block pointers with tl.advance
@triton.jit
def matmul(a_ptr, b_ptr, c_ptr, M, N, K, stride_am, stride_ak, stride_bk, stride_bn,
           BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    i = tl.program_id(0) * BLOCK_M
    j = tl.program_id(1) * BLOCK_N
    a = tl.make_block_ptr(a_ptr, (M, K), (stride_am, stride_ak), (i, 0), (BLOCK_M, BLOCK_K), (1, 0))
    b = tl.make_block_ptr(b_ptr, (K, N), (stride_bk, stride_bn), (0, j), (BLOCK_K, BLOCK_N), (1, 0))
    c = tl.make_block_ptr(c_ptr, (M, N), (N, 1), (i, j), (BLOCK_M, BLOCK_N), (1, 0))
    acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        x = tl.load(a, boundary_check=(0, 1), padding_option="zero")
        y = tl.load(b, boundary_check=(0, 1), padding_option="zero")
        acc = tl.dot(x, y, acc, input_precision="ieee")
        a = tl.advance(a, (0, BLOCK_K))
        b = tl.advance(b, (BLOCK_K, 0))
    tl.store(c, acc, boundary_check=(0, 1))


# --- the transposed product, along K from the end, with allow_tf32
@triton.jit
def matmul(a_ptr, b_ptr, c_ptr, M, N, K, stride_am, stride_ak, stride_bk, stride_bn,
           BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
    turned = tl.zeros([BLOCK_N, BLOCK_M], dtype=tl.float32)
    for step in range(tl.cdiv(K, BLOCK_K) - 1, -1, -1):
        k = step * BLOCK_K + tl.arange(0, BLOCK_K)
        at_a = m * stride_am + k[:, None] * stride_ak
        at_b = k[None, :] * stride_bk + n * stride_bn
        a = tl.load(a_ptr + at_a, mask=(m < M) & (k[:, None] < K), other=0.0)
        b = tl.load(b_ptr + at_b, mask=(n < N) & (k[None, :] < K), other=0.0)
        turned = tl.dot(b, a, turned, allow_tf32=False)
    tl.store(c_ptr + m * N + n, turned, mask=(m < M) & (n < N))


# --- no tl.dot: one column of a times one row of b at a time
@triton.jit
def matmul(a_ptr, b_ptr, c_ptr, M, N, K, stride_am, stride_ak, stride_bk, stride_bn,
           BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        for k in range(start, tl.minimum(start + BLOCK_K, K)):
            a = tl.load(a_ptr + m * stride_am + k * stride_ak, mask=m < M, other=0.0)
            b = tl.load(b_ptr + k * stride_bk + n * stride_bn, mask=n < N, other=0.0)
            acc += a[:, None] * b[None, :]
    tl.store(c_ptr + m[:, None] * N + n[None, :], acc, mask=(m < M)[:, None] & (n < N)[None, :])


# --- three TF32 products for one, and the sum of the steps in float64
@triton.jit
def matmul(a_ptr, b_ptr, c_ptr, M, N, K, stride_am, stride_ak, stride_bk, stride_bn,
           BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float64)
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        at_a = m * stride_am + k[None, :] * stride_ak
        at_b = k[:, None] * stride_bk + n * stride_bn
        a = tl.load(a_ptr + at_a, mask=(m < M) & (k[None, :] < K), other=0.0)
        b = tl.load(b_ptr + at_b, mask=(k[:, None] < K) & (n < N), other=0.0)
        acc += tl.dot(a, b, input_precision="tf32x3").to(tl.float64)
    tl.store(c_ptr + m * N + n, acc.to(tl.float32), mask=(m < M) & (n < N))
