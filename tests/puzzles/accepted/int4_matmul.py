"""Right answers to int4_matmul in unusual valid forms, each below a line that says what is unusual."""

import triton
import triton.language as tl


# --- both halves of a block in one tile of 32: each byte is loaded for two lanes of one load
@triton.jit
def int4_matmul(x_ptr, q_ptr, d_ptr, m_ptr, y_ptr, M, N, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    j = tl.arange(0, 32)
    acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for block in range(0, K // 32):
        q = tl.load(q_ptr + n * (K // 2) + block * 16 + (j % 16)[:, None], mask=n < N, other=0)
        nibbles = (q >> (j // 16 * 4)[:, None].to(tl.uint8)) & 0xF
        d = tl.load(d_ptr + n * (K // 32) + block, mask=n < N, other=0.0)
        lowest = tl.load(m_ptr + n * (K // 32) + block, mask=n < N, other=0.0)
        w = nibbles.to(tl.float32) * d.to(tl.float32) + lowest.to(tl.float32)
        x = tl.load(x_ptr + m * K + block * 32 + j[None, :], mask=m < M, other=0.0)
        acc = tl.dot(x, w, acc, input_precision="ieee")
    tl.store(y_ptr + m * N + n, acc, mask=(m < M) & (n < N))


# --- d and m leave the sum of a block
@triton.jit
def int4_matmul(x_ptr, q_ptr, d_ptr, m_ptr, y_ptr, M, N, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    j = tl.arange(0, 16)
    acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    block = 0
    while block * 32 < K:
        q = tl.load(q_ptr + n[None, :] * (K // 2) + block * 16 + j[:, None], mask=n[None, :] < N, other=0)
        x = x_ptr + row[:, None] * K + block * 32 + j[None, :]
        low = tl.load(x, mask=row[:, None] < M, other=0.0)
        high = tl.load(x + 16, mask=row[:, None] < M, other=0.0)
        part = tl.dot(low, (q & 15).to(tl.float32), input_precision="ieee")
        part += tl.dot(high, (q // 16).to(tl.float32), input_precision="ieee")
        total = tl.sum(low + high, axis=1)
        d = tl.load(d_ptr + n * (K // 32) + block, mask=n < N, other=0.0).to(tl.float32)
        lowest = tl.load(m_ptr + n * (K // 32) + block, mask=n < N, other=0.0).to(tl.float32)
        acc += part * d[None, :] + total[:, None] * lowest[None, :]
        block += 1
    tl.store(y_ptr + row[:, None] * N + n[None, :], acc, mask=(row[:, None] < M) & (n[None, :] < N))


# --- halves joined and turned into one tile
@triton.jit
def unpack(q, d, lowest, BLOCK_N: tl.constexpr):
    both = tl.join(q & 15, q >> 4).to(tl.float32)
    return tl.reshape(tl.permute(both, (0, 2, 1)), (BLOCK_N, 32)) * d[:, None] + lowest[:, None]


@triton.jit
def int4_matmul(x_ptr, q_ptr, d_ptr, m_ptr, y_ptr, M, N, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    blocks = K // 32
    acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for b in range(blocks - 1, -1, -1):
        q = tl.load(q_ptr + (n * blocks + b)[:, None] * 16 + tl.arange(0, 16), mask=(n < N)[:, None], other=0)
        d = tl.load(d_ptr + n * blocks + b, mask=n < N, other=0).to(tl.float32)
        lowest = tl.load(m_ptr + n * blocks + b, mask=n < N, other=0).to(tl.float32)
        x = tl.load(x_ptr + row[:, None] * K + b * 32 + tl.arange(0, 32), mask=(row < M)[:, None], other=0)
        acc = tl.dot(x, unpack(q, d, lowest, BLOCK_N).T, acc, input_precision="ieee")
    tl.store(y_ptr + row[:, None] * N + n[None, :], acc, mask=(row < M)[:, None] & (n < N)[None, :])
