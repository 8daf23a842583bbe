"""Right answers to cross_entropy in unusual valid forms, each below a line that says what is unusual."""

import triton
import triton.language as tl


# --- the target's logit is caught on the way
@triton.jit
def cross_entropy(x_ptr, target_ptr, loss_ptr, N, V, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    target = tl.load(target_ptr + row, mask=row < N, other=0)
    m, s, hit = -float("inf"), 0.0, 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * V + v, mask=v < V, other=-float("inf"))
        hit += tl.sum(tl.where(v == target, x, 0.0), 0)
        m_new = tl.maximum(m, tl.max(x, 0))
        s = s * tl.exp(m - m_new) + tl.sum(tl.exp(x - m_new), 0)
        m = m_new
    tl.store(loss_ptr + row, tl.log(s) + (m - hit))


# --- powers and logarithms of two
@triton.jit
def cross_entropy(x_ptr, target_ptr, loss_ptr, N, V, BLOCK: tl.constexpr):
    LOG2_E: tl.constexpr = 1.4426950408889634
    LN_2: tl.constexpr = 0.6931471805599453
    row = tl.program_id(0)
    m, s = -float("inf"), 0.0
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * V + v, mask=v < V, other=-float("inf"))
        m_new = tl.maximum(m, tl.max(x, 0))
        s = s * tl.exp2((m - m_new) * LOG2_E) + tl.sum(tl.exp2((x - m_new) * LOG2_E), 0)
        m = m_new
    hit = tl.load(x_ptr + row * V + tl.load(target_ptr + row))
    tl.store(loss_ptr + row, m - hit + tl.log2(s) * LN_2, mask=row < N)


# --- scalar branches: the sum is scaled only when the maximum rises
@triton.jit
def cross_entropy(x_ptr, target_ptr, loss_ptr, N, V, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    hit = tl.load(x_ptr + row * V + tl.load(target_ptr + row))
    start = 0
    m = -float("inf")
    s = 0.0
    while start < V:
        v = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * V + v, mask=v < V, other=-float("inf"))
        top = tl.max(x, 0)
        if top > m:
            s = s * tl.exp(m - top)
            m = top
        s += tl.sum(tl.exp(x - m), 0)
        start += BLOCK
    tl.store(loss_ptr + row, m + tl.log(s) - hit)
