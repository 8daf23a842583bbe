"""Sheet 3, matrices: one answer to each puzzle. Read as text by the judge."""

import triton
import triton.language as tl


@triton.jit
def matmul(a_ptr, b_ptr, c_ptr, M, N, K, stride_am, stride_ak, stride_bk, stride_bn,
           BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        a = tl.load(a_ptr + m[:, None] * stride_am + k[None, :] * stride_ak,
                    mask=(m[:, None] < M) & (k[None, :] < K), other=0.0)
        b = tl.load(b_ptr + k[:, None] * stride_bk + n[None, :] * stride_bn,
                    mask=(k[:, None] < K) & (n[None, :] < N), other=0.0)
        acc = tl.dot(a, b, acc, input_precision="ieee")
    tl.store(c_ptr + m[:, None] * N + n[None, :], acc, mask=(m[:, None] < M) & (n[None, :] < N))


@triton.jit
def matmul_grouped(a_ptr, b_ptr, c_ptr, M, N, K, GROUP: tl.constexpr,
                   BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    pid = tl.program_id(0)
    rows, columns = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    first = pid // (GROUP * columns) * GROUP
    height = tl.minimum(rows - first, GROUP)
    inside = pid % (GROUP * columns)
    m = (first + inside % height) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = inside // height * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        a = tl.load(a_ptr + m[:, None] * K + k[None, :], mask=(m[:, None] < M) & (k[None, :] < K), other=0.0)
        b = tl.load(b_ptr + k[:, None] * N + n[None, :], mask=(k[:, None] < K) & (n[None, :] < N), other=0.0)
        acc = tl.dot(a, b, acc, input_precision="ieee")
    tl.store(c_ptr + m[:, None] * N + n[None, :], acc, mask=(m[:, None] < M) & (n[None, :] < N))


@triton.jit
def int8_matmul(x_ptr, w_ptr, scale_ptr, y_ptr, M, N, K,
                BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        x = tl.load(x_ptr + m[:, None] * K + k[None, :], mask=(m[:, None] < M) & (k[None, :] < K), other=0.0)
        w = tl.load(w_ptr + n[:, None] * K + k[None, :], mask=(n[:, None] < N) & (k[None, :] < K), other=0)
        acc = tl.dot(x, tl.trans(w.to(tl.float32)), acc, input_precision="ieee")
    scale = tl.load(scale_ptr + n, mask=n < N)
    inside = (m[:, None] < M) & (n[None, :] < N)
    tl.store(y_ptr + m[:, None] * N + n[None, :], acc * scale[None, :], mask=inside)


@triton.jit
def int4_matmul(x_ptr, q_ptr, d_ptr, m_ptr, y_ptr, M, N, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
    j = tl.arange(0, 16)[None, :]
    acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for block in range(0, K // 32):
        q = tl.load(q_ptr + n * (K // 2) + block * 16 + j, mask=n < N, other=0)
        d = tl.load(d_ptr + n * (K // 32) + block, mask=n < N, other=0.0).to(tl.float32)
        lowest = tl.load(m_ptr + n * (K // 32) + block, mask=n < N, other=0.0).to(tl.float32)
        w_low = (q & 15).to(tl.float32) * d + lowest
        w_high = (q >> 4).to(tl.float32) * d + lowest
        x_low = tl.load(x_ptr + row * K + block * 32 + j, mask=row < M, other=0.0)
        x_high = tl.load(x_ptr + row * K + block * 32 + 16 + j, mask=row < M, other=0.0)
        acc = tl.dot(x_low, tl.trans(w_low), acc, input_precision="ieee")
        acc = tl.dot(x_high, tl.trans(w_high), acc, input_precision="ieee")
    column = tl.trans(n)
    tl.store(y_ptr + row * N + column, acc, mask=(row < M) & (column < N))


@triton.jit
def swiglu(x_ptr, w_gate_ptr, w_up_ptr, h_ptr, M, D, F,
           BLOCK_M: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_D: tl.constexpr):
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    gate = tl.zeros([BLOCK_M, BLOCK_F], dtype=tl.float32)
    up = tl.zeros([BLOCK_M, BLOCK_F], dtype=tl.float32)
    for start in range(0, D, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        x = tl.load(x_ptr + m[:, None] * D + d[None, :], mask=(m[:, None] < M) & (d[None, :] < D), other=0.0)
        at = d[:, None] * F + f[None, :]
        inside = (d[:, None] < D) & (f[None, :] < F)
        gate = tl.dot(x, tl.load(w_gate_ptr + at, mask=inside, other=0.0), gate, input_precision="ieee")
        up = tl.dot(x, tl.load(w_up_ptr + at, mask=inside, other=0.0), up, input_precision="ieee")
    h = gate * tl.sigmoid(gate) * up
    tl.store(h_ptr + m[:, None] * F + f[None, :], h, mask=(m[:, None] < M) & (f[None, :] < F))
