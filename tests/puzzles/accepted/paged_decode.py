"""Right answers to paged_decode in unusual valid forms, each below a line that says what is unusual."""

import triton
import triton.language as tl


# --- the last block first, in powers of two
@triton.jit
def paged_decode(q_ptr, k_cache_ptr, v_cache_ptr, table_ptr, length_ptr, o_ptr, B, H, K, NB, T, sm_scale,
                 P: tl.constexpr, D: tl.constexpr, GROUP: tl.constexpr):
    b, g = tl.program_id(0), tl.program_id(1)
    length = tl.load(length_ptr + b)
    group = H // K
    i = tl.arange(0, GROUP)[:, None]
    d = tl.arange(0, D)[None, :]
    mine = (b * H + g * group + i) * D + d
    q = tl.load(q_ptr + mine, mask=i < group, other=0.0) * (sm_scale * 1.4426950408889634)
    m = tl.full([GROUP, 1], -float("inf"), dtype=tl.float32)
    total = tl.zeros([GROUP, 1], dtype=tl.float32)
    acc = tl.zeros([GROUP, D], dtype=tl.float32)
    block = tl.cdiv(length, P) - 1
    while block >= 0:
        page = tl.load(table_ptr + b * T + block).to(tl.int64)
        s = tl.arange(0, P)[:, None]
        at = ((page * P + s) * K + g) * D + d
        inside = block * P + s < length
        k = tl.load(k_cache_ptr + at, mask=inside, other=0.0)
        v = tl.load(v_cache_ptr + at, mask=inside, other=0.0)
        scores = tl.dot(q, k.T, input_precision="ieee")
        scores = tl.where(tl.trans(inside), scores, -float("inf"))
        m_new = tl.maximum(m, tl.max(scores, 1, keep_dims=True))
        p = tl.exp2(scores - m_new)
        total = total * tl.exp2(m - m_new) + tl.sum(p, 1, keep_dims=True)
        acc = acc * tl.exp2(m - m_new) + tl.dot(p, v, input_precision="ieee")
        m = m_new
        block -= 1
    tl.store(o_ptr + mine, acc / total, mask=i < group)


# --- head after head, without tl.dot
@triton.jit
def paged_decode(q_ptr, k_cache_ptr, v_cache_ptr, table_ptr, length_ptr, o_ptr, B, H, K, NB, T, sm_scale,
                 P: tl.constexpr, D: tl.constexpr, GROUP: tl.constexpr):
    b, g = tl.program_id(0), tl.program_id(1)
    length = tl.load(length_ptr + b)
    i = tl.arange(0, GROUP)
    d = tl.arange(0, D)
    heads = (i < H // K)[:, None]
    mine = (b * H + g * (H // K) + i)[:, None] * D + d[None, :]
    q = tl.load(q_ptr + mine, mask=heads, other=0.0)
    m = tl.full([GROUP], -3.0e38, dtype=tl.float32)
    total = tl.zeros([GROUP], dtype=tl.float32)
    acc = tl.zeros([GROUP, D], dtype=tl.float32)
    for block in range(0, (length + P - 1) // P):
        page = tl.load(table_ptr + b * T + block)
        for s in range(0, tl.minimum(P, length - block * P)):
            row = ((page * P + s) * K + g) * D
            score = tl.sum(q * tl.load(k_cache_ptr + row + d)[None, :], 1) * sm_scale
            m_new = tl.maximum(m, score)
            p = tl.exp(score - m_new)
            fix = tl.exp(m - m_new)
            total = total * fix + p
            acc = acc * fix[:, None] + p[:, None] * tl.load(v_cache_ptr + row + d)[None, :]
            m = m_new
    tl.store(o_ptr + mine, acc / total[:, None], mask=heads)


# --- a helper that attends to one page, and block pointers into it
@triton.jit
def attend(q, k, v, left, m, total, acc, P: tl.constexpr):
    s = tl.dot(q, tl.trans(k), input_precision="ieee")
    s = tl.where(tl.arange(0, P)[None, :] < left, s, float("-inf"))
    m_new = tl.maximum(m, tl.max(s, 1))
    p = tl.exp(s - m_new[:, None])
    fix = tl.exp(m - m_new)
    return m_new, total * fix + tl.sum(p, 1), tl.dot(p, v, acc * fix[:, None], input_precision="ieee")


@triton.jit
def paged_decode(q_ptr, k_cache_ptr, v_cache_ptr, table_ptr, length_ptr, o_ptr, B, H, K, NB, T, sm_scale,
                 P: tl.constexpr, D: tl.constexpr, GROUP: tl.constexpr):
    b, g = tl.program_id(0), tl.program_id(1)
    length = tl.load(length_ptr + b)
    rows = H // K
    mine = (b * H + g * rows) * D
    q_at = tl.make_block_ptr(q_ptr + mine, (rows, D), (D, 1), (0, 0), (GROUP, D), (1, 0))
    q = tl.load(q_at, boundary_check=(0,), padding_option="zero") * sm_scale
    m = tl.full([GROUP], float("-inf"), dtype=tl.float32)
    total = tl.zeros([GROUP], dtype=tl.float32)
    acc = tl.zeros([GROUP, D], dtype=tl.float32)
    for start in range(0, length, P):
        page = (tl.load(table_ptr + b * T + start // P) * P * K + g) * D
        left = length - start
        k_at = tl.make_block_ptr(k_cache_ptr + page, (left, D), (K * D, 1), (0, 0), (P, D), (1, 0))
        v_at = tl.make_block_ptr(v_cache_ptr + page, (left, D), (K * D, 1), (0, 0), (P, D), (1, 0))
        k = tl.load(k_at, boundary_check=(0,), padding_option="zero")
        v = tl.load(v_at, boundary_check=(0,), padding_option="zero")
        m, total, acc = attend(q, k, v, left, m, total, acc, P)
    o_at = tl.make_block_ptr(o_ptr + mine, (rows, D), (D, 1), (0, 0), (GROUP, D), (1, 0))
    tl.store(o_at, acc / total[:, None], boundary_check=(0,))
