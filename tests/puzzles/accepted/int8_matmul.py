"""Right answers to int8_matmul in unusual valid forms, each below a line that says what is unusual."""

import triton
import triton.language as tl


# --- the weights are scaled before the product, in a tile that lies as [K, N]
@triton.jit
def int8_matmul(x_ptr, w_ptr, scale_ptr, y_ptr, M, N, K,
                BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    scale = tl.load(scale_ptr + n, mask=n < N, other=0.0)
    acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        x = tl.load(x_ptr + m * K + k[None, :], mask=(m < M) & (k[None, :] < K), other=0.0)
        w = tl.load(w_ptr + n * K + k[:, None], mask=(n < N) & (k[:, None] < K), other=0)
        acc = tl.dot(x, w.to(tl.float32) * scale, acc, input_precision="ieee")
    tl.store(y_ptr + m * N + n, acc, mask=(m < M) & (n < N))


# --- only one of the two tiles is masked along K; float16 holds an int8 exactly
@triton.jit
def int8_matmul(x_ptr, w_ptr, scale_ptr, y_ptr, M, N, K,
                BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.minimum(tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N), N - 1)
    acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        x = tl.load(x_ptr + m[:, None] * K + k[None, :], mask=(m[:, None] < M) & (k[None, :] < K), other=0.0)
        w = tl.load(w_ptr + n[:, None] * K + tl.minimum(k, K - 1)[None, :]).to(tl.float16)
        acc += tl.dot(x, w.T.to(tl.float32), input_precision="ieee")
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    y = acc * tl.load(scale_ptr + n)[None, :]
    tl.store(y_ptr + m[:, None] * N + column[None, :], y, mask=(m[:, None] < M) & (column[None, :] < N))


# --- no tl.dot: products and a sum over three axes
@triton.jit
def int8_matmul(x_ptr, w_ptr, scale_ptr, y_ptr, M, N, K,
                BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    scale = tl.load(scale_ptr + n, mask=n < N, other=1.0)
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        inside = start + k < K
        w = tl.load(w_ptr + n[:, None] * K + start + k, mask=(n < N)[:, None] & inside, other=0)
        x = tl.load(x_ptr + m[:, None] * K + start + k, mask=(m < M)[:, None] & inside, other=0.0)
        acc += tl.sum(x[:, None, :] * w[None, :, :].to(tl.float32), axis=2)
    y = acc * scale
    tl.store(y_ptr + m[:, None] * N + n[None, :], y, mask=(m < M)[:, None] & (n < N)[None, :])
