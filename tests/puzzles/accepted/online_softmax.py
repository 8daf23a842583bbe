"""Right answers to online_softmax in unusual valid forms, each below a line that says what is unusual."""

import triton
import triton.language as tl


# --- powers of two in place of powers of e
@triton.jit
def online_softmax(x_ptr, z_ptr, N, M, BLOCK: tl.constexpr):
    LOG2_E: tl.constexpr = 1.4426950408889634
    row = tl.program_id(0)
    m = -float("inf")
    s = 0.0
    for start in range(0, M, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * M + at, mask=at < M, other=-float("inf"))
        m_new = tl.maximum(m, tl.max(x, 0))
        s = s * tl.exp2((m - m_new) * LOG2_E) + tl.sum(tl.exp2((x - m_new) * LOG2_E), 0)
        m = m_new
    for start in range(0, M, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * M + at, mask=at < M, other=0.0)
        tl.store(z_ptr + row * M + at, tl.exp2((x - m) * LOG2_E) * (1 / s), mask=at < M)


# --- a maximum and a sum in each lane, joined after the walk
@triton.jit
def online_softmax(x_ptr, z_ptr, N, M, BLOCK: tl.constexpr):
    row = x_ptr + tl.program_id(0) * M
    lane = tl.arange(0, BLOCK)
    m = tl.full([BLOCK], float("-inf"), tl.float32)
    s = tl.zeros([BLOCK], tl.float32)
    for start in range(0, M, BLOCK):
        inside = start + lane < M
        x = tl.load(row + start + lane, mask=inside, other=float("-inf"))
        m_new = tl.where(inside, tl.maximum(m, x), m)
        s = tl.where(inside, s * tl.exp(m - m_new) + tl.exp(x - m_new), s)
        m = m_new
    top = tl.max(m, 0)
    total = tl.sum(tl.where(m > float("-inf"), s * tl.exp(m - top), 0.0), 0)
    for start in range(0, M, BLOCK):
        inside = start + lane < M
        x = tl.load(row + start + lane, mask=inside)
        tl.store(z_ptr + tl.program_id(0) * M + start + lane, tl.exp(x - top) / total, mask=inside)


# --- the walk as a helper that returns both, and the second walk backwards
@triton.jit
def step(m, s, x):
    m_new = tl.maximum(m, tl.max(x, 0))
    return m_new, s * tl.exp(m - m_new) + tl.sum(tl.exp(x - m_new), 0)


@triton.jit
def online_softmax(x_ptr, z_ptr, N, M, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * M
    m, s = -float("inf"), 0.0
    for start in range(0, M, BLOCK):
        at = start + tl.arange(0, BLOCK)
        m, s = step(m, s, tl.load(x_ptr + row + at, mask=at < M, other=-float("inf")))
    for block in range(tl.cdiv(M, BLOCK) - 1, -1, -1):
        at = block * BLOCK + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row + at, mask=at < M, other=-float("inf"))
        tl.store(z_ptr + row + at, tl.exp(x - m) / s, mask=at < M)


# --- the log-sum-exp in one number
@triton.jit
def online_softmax(x_ptr, z_ptr, N, M, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * M + lane, mask=lane < M, other=-float("inf"))
    m = tl.max(x, 0)
    s = tl.sum(tl.exp(x - m), 0)
    for start in range(BLOCK, M, BLOCK):
        x = tl.load(x_ptr + row * M + start + lane, mask=start + lane < M, other=-float("inf"))
        m_new = tl.maximum(m, tl.max(x, 0))
        s = s * tl.exp(m - m_new) + tl.sum(tl.exp(x - m_new), 0)
        m = m_new
    lse = m + tl.log(s)
    for start in range(0, M, BLOCK):
        x = tl.load(x_ptr + row * M + start + lane, mask=start + lane < M, other=0.0)
        tl.store(z_ptr + row * M + start + lane, tl.exp(x - lse), mask=start + lane < M)
