"""Right answers to split_k_decode in unusual valid forms, each below a line that says what is unusual."""

import triton
import triton.language as tl


# --- an empty part is stored and left at once
@triton.jit
def split_k_decode(q_ptr, k_cache_ptr, v_cache_ptr, table_ptr, length_ptr, o_ptr, lse_ptr, B, H, K, NB, T,
                   sm_scale, P: tl.constexpr, D: tl.constexpr, GROUP: tl.constexpr, SPLITS: tl.constexpr):
    b, g, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(length_ptr + b)
    blocks = tl.cdiv(length, P)
    begin = part * tl.cdiv(blocks, SPLITS)
    end = tl.minimum(begin + tl.cdiv(blocks, SPLITS), blocks)
    i = tl.arange(0, GROUP)
    d = tl.arange(0, D)
    heads = i < H // K
    row = b * H + g * (H // K) + i
    out = row * SPLITS + part
    if begin >= end:
        tl.store(o_ptr + out[:, None] * D + d[None, :], tl.zeros([GROUP, D], tl.float32), mask=heads[:, None])
        tl.store(lse_ptr + out, tl.full([GROUP], -float("inf"), tl.float32), mask=heads)
        return
    q = tl.load(q_ptr + row[:, None] * D + d[None, :], mask=heads[:, None], other=0.0)
    m = tl.full([GROUP], -float("inf"), dtype=tl.float32)
    total = tl.zeros([GROUP], dtype=tl.float32)
    acc = tl.zeros([GROUP, D], dtype=tl.float32)
    for block in range(begin, end):
        s = block * P + tl.arange(0, P)
        page = tl.load(table_ptr + b * T + block)
        at = ((page * P + tl.arange(0, P)) * K + g)[:, None] * D + d[None, :]
        k = tl.load(k_cache_ptr + at, mask=(s < length)[:, None], other=0.0)
        v = tl.load(v_cache_ptr + at, mask=(s < length)[:, None], other=0.0)
        scores = tl.dot(q, k.T, input_precision="ieee") * sm_scale
        scores = tl.where((s < length)[None, :], scores, -float("inf"))
        m_new = tl.maximum(m, tl.max(scores, 1))
        p = tl.exp(scores - m_new[:, None])
        fix = tl.exp(m - m_new)
        total = total * fix + tl.sum(p, 1)
        acc = tl.dot(p, v, acc * fix[:, None], input_precision="ieee")
        m = m_new
    tl.store(o_ptr + out[:, None] * D + d[None, :], acc / total[:, None], mask=heads[:, None])
    tl.store(lse_ptr + out, m + tl.log(total), mask=heads)


# --- a running log-sum-exp that begins at minus infinity, position after position, without tl.dot
@triton.jit
def split_k_decode(q_ptr, k_cache_ptr, v_cache_ptr, table_ptr, length_ptr, o_ptr, lse_ptr, B, H, K, NB, T,
                   sm_scale, P: tl.constexpr, D: tl.constexpr, GROUP: tl.constexpr, SPLITS: tl.constexpr):
    b, g, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(length_ptr + b)
    each = tl.cdiv(tl.cdiv(length, P), SPLITS) * P
    heads = (tl.arange(0, GROUP) < H // K)[:, None]
    head = (b * H + g * (H // K) + tl.arange(0, GROUP))[:, None]
    d = tl.arange(0, D)[None, :]
    q = tl.load(q_ptr + head * D + d, mask=heads, other=0.0)
    lse = tl.full([GROUP, 1], -float("inf"), dtype=tl.float32)
    o = tl.zeros([GROUP, D], dtype=tl.float32)
    s = part * each
    while s < tl.minimum(length, (part + 1) * each):
        row = tl.load(table_ptr + b * T + s // P)
        for at in range(s, tl.minimum(s + P, length)):
            here = ((row * P + at % P) * K + g) * D + d
            score = tl.sum(q * tl.load(k_cache_ptr + here), 1, keep_dims=True) * sm_scale
            top = tl.maximum(lse, score)
            new = top + tl.log(tl.exp(lse - top) + tl.exp(score - top))
            o = o * tl.exp(lse - new) + tl.exp(score - new) * tl.load(v_cache_ptr + here)
            lse = new
        s += P
    out = head * SPLITS + part
    tl.store(o_ptr + out * D + d, o, mask=heads)
    tl.store(lse_ptr + out, lse, mask=heads)


# --- powers of two, the parts walked from their end, and a helper for the bounds
@triton.jit
def bounds(length, part, P: tl.constexpr, SPLITS: tl.constexpr):
    blocks = (length + P - 1) // P
    each = (blocks + SPLITS - 1) // SPLITS
    return part * each, min(part * each + each, blocks)


@triton.jit
def split_k_decode(q_ptr, k_cache_ptr, v_cache_ptr, table_ptr, length_ptr, o_ptr, lse_ptr, B, H, K, NB, T,
                   sm_scale, P: tl.constexpr, D: tl.constexpr, GROUP: tl.constexpr, SPLITS: tl.constexpr):
    b, g, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(length_ptr + b)
    begin, end = bounds(length, part, P, SPLITS)
    i, d, s = tl.arange(0, GROUP), tl.arange(0, D), tl.arange(0, P)
    mine = b * H + g * (H // K) + i
    heads = i < H // K
    q = tl.load(q_ptr + mine[:, None] * D + d, mask=heads[:, None], other=0.0)
    q *= sm_scale * 1.4426950408889634
    m = tl.full([GROUP], -float("inf"), dtype=tl.float32)
    total = tl.zeros([GROUP], dtype=tl.float32)
    acc = tl.zeros([GROUP, D], dtype=tl.float32)
    for back in range(1, end - begin + 1):
        block = end - back
        page = tl.load(table_ptr + b * T + block)
        at = ((page * P + s) * K + g)[:, None] * D + d
        inside = s < length - block * P
        k = tl.load(k_cache_ptr + at, mask=inside[:, None], other=0.0)
        v = tl.load(v_cache_ptr + at, mask=inside[:, None], other=0.0)
        scores = tl.where(inside[None, :], tl.dot(q, tl.trans(k), input_precision="ieee"), -float("inf"))
        m_new = tl.maximum(m, tl.max(scores, 1))
        p = tl.exp2(scores - m_new[:, None])
        fix = tl.exp2(m - m_new)
        total = total * fix + tl.sum(p, 1)
        acc = tl.dot(p, v, acc * fix[:, None], input_precision="ieee")
        m = m_new
    out = mine * SPLITS + part
    o = tl.where(total[:, None] > 0, acc / total[:, None], 0.0)
    tl.store(o_ptr + out[:, None] * D + d, o, mask=heads[:, None])
    tl.store(lse_ptr + out, (m + tl.log2(total)) * 0.6931471805599453, mask=heads)
