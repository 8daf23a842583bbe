"""Right answers to scalar_flash in unusual valid forms, each below a line that says what is unusual."""

import triton
import triton.language as tl


# --- from the last block to the first, in powers of two
@triton.jit
def scalar_flash(q_ptr, k_ptr, v_ptr, z_ptr, N, S, BLOCK_N: tl.constexpr, BLOCK_S: tl.constexpr):
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    q = tl.load(q_ptr + n, mask=n < N, other=0.0) * 1.4426950408889634
    m = tl.full([BLOCK_N], float("-inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK_N], dtype=tl.float32)
    acc = tl.zeros([BLOCK_N], dtype=tl.float32)
    for block in range(tl.cdiv(S, BLOCK_S) - 1, -1, -1):
        j = block * BLOCK_S + tl.arange(0, BLOCK_S)
        k = tl.load(k_ptr + j, mask=j < S, other=0.0)
        v = tl.load(v_ptr + j, mask=j < S, other=0.0)
        s = tl.where((j < S)[None, :], q[:, None] * k[None, :], float("-inf"))
        m_new = tl.maximum(m, tl.max(s, axis=1))
        p = tl.exp2(s - m_new[:, None])
        fix = tl.exp2(m - m_new)
        total = total * fix + tl.sum(p, axis=1)
        acc = acc * fix + tl.sum(p * v[None, :], axis=1)
        m = m_new
    tl.store(z_ptr + n, acc / total, mask=n < N)


# --- keys stand in rows; the average is kept instead of the sum
@triton.jit
def scalar_flash(q_ptr, k_ptr, v_ptr, z_ptr, N, S, BLOCK_N: tl.constexpr, BLOCK_S: tl.constexpr):
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    q = tl.load(q_ptr + n, mask=n < N, other=0.0)[None, :]
    m = tl.full([BLOCK_N], -3.0e38, dtype=tl.float32)
    total = tl.zeros([BLOCK_N], dtype=tl.float32)
    mean = tl.zeros([BLOCK_N], dtype=tl.float32)
    start = 0
    while start < S:
        j = start + tl.arange(0, BLOCK_S)[:, None]
        s = tl.where(j < S, tl.load(k_ptr + j, mask=j < S, other=0.0) * q, -float("inf"))
        m_new = tl.maximum(m, tl.max(s, 0))
        p = tl.exp(s - m_new[None, :])
        old = total * tl.exp(m - m_new)
        total = old + tl.sum(p, 0)
        v = tl.load(v_ptr + j, mask=j < S, other=0.0)
        mean = mean * (old / total) + tl.sum(p / total[None, :] * v, 0)
        m = m_new
        start += BLOCK_S
    tl.store(z_ptr + n, mean, mask=n < N)


# --- one key after the other, each a scalar
@triton.jit
def scalar_flash(q_ptr, k_ptr, v_ptr, z_ptr, N, S, BLOCK_N: tl.constexpr, BLOCK_S: tl.constexpr):
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    q = tl.load(q_ptr + n, mask=n < N, other=0.0)
    m = q * tl.load(k_ptr)
    total = tl.full([BLOCK_N], 1.0, tl.float32)
    acc = tl.zeros([BLOCK_N], tl.float32) + tl.load(v_ptr)
    for start in range(0, S, BLOCK_S):
        for j in range(tl.maximum(start, 1), tl.minimum(start + BLOCK_S, S)):
            s = q * tl.load(k_ptr + j)
            m_new = tl.maximum(m, s)
            fix, p = tl.exp(m - m_new), tl.exp(s - m_new)
            total = total * fix + p
            acc = acc * fix + p * tl.load(v_ptr + j)
            m = m_new
    tl.store(z_ptr + n, acc / total, mask=n < N)
