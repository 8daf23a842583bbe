"""Sheet 5, serving: one answer to each puzzle. Read as text by the judge."""

import triton
import triton.language as tl


@triton.jit
def kv_write(new_ptr, slot_ptr, cache_ptr, N, S, W, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    slot = tl.load(slot_ptr + n)
    w = tl.arange(0, BLOCK)
    row = tl.load(new_ptr + n * W + w, mask=w < W)
    tl.store(cache_ptr + slot * W + w, row, mask=(w < W) & (slot >= 0))


@triton.jit
def paged_decode(q_ptr, k_cache_ptr, v_cache_ptr, table_ptr, length_ptr, o_ptr, B, H, K, NB, T, sm_scale,
                 P: tl.constexpr, D: tl.constexpr, GROUP: tl.constexpr):
    b, kv = tl.program_id(0), tl.program_id(1)
    length = tl.load(length_ptr + b)
    inside = tl.arange(0, GROUP)
    d = tl.arange(0, D)[None, :]
    mine = (b * H + kv * (H // K) + inside)[:, None] * D + d
    heads = inside[:, None] < H // K
    q = tl.load(q_ptr + mine, mask=heads, other=0.0)
    m = tl.full([GROUP], -float("inf"), dtype=tl.float32)
    total = tl.zeros([GROUP], dtype=tl.float32)
    acc = tl.zeros([GROUP, D], dtype=tl.float32)
    for block in range(0, tl.cdiv(length, P)):
        page = tl.load(table_ptr + b * T + block)
        s = block * P + tl.arange(0, P)
        at = ((page * P + tl.arange(0, P))[:, None] * K + kv) * D + d
        k = tl.load(k_cache_ptr + at, mask=s[:, None] < length, other=0.0)
        v = tl.load(v_cache_ptr + at, mask=s[:, None] < length, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * sm_scale
        scores = tl.where(s[None, :] < length, scores, -float("inf"))
        m_new = tl.maximum(m, tl.max(scores, 1))
        p = tl.exp(scores - m_new[:, None])
        fix = tl.exp(m - m_new)
        total = total * fix + tl.sum(p, 1)
        acc = tl.dot(p, v, acc * fix[:, None], input_precision="ieee")
        m = m_new
    tl.store(o_ptr + mine, acc / total[:, None], mask=heads)


@triton.jit
def split_k_decode(q_ptr, k_cache_ptr, v_cache_ptr, table_ptr, length_ptr, o_ptr, lse_ptr, B, H, K, NB, T,
                   sm_scale,
                   P: tl.constexpr, D: tl.constexpr, GROUP: tl.constexpr, SPLITS: tl.constexpr):
    b, kv, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(length_ptr + b)
    blocks = tl.cdiv(length, P)
    each = tl.cdiv(blocks, SPLITS)
    inside = tl.arange(0, GROUP)
    d = tl.arange(0, D)[None, :]
    row = b * H + kv * (H // K) + inside
    heads = inside < H // K
    q = tl.load(q_ptr + row[:, None] * D + d, mask=heads[:, None], other=0.0)
    m = tl.full([GROUP], -float("inf"), dtype=tl.float32)
    total = tl.zeros([GROUP], dtype=tl.float32)
    acc = tl.zeros([GROUP, D], dtype=tl.float32)
    for block in range(split * each, tl.minimum((split + 1) * each, blocks)):
        page = tl.load(table_ptr + b * T + block)
        s = block * P + tl.arange(0, P)
        at = ((page * P + tl.arange(0, P))[:, None] * K + kv) * D + d
        k = tl.load(k_cache_ptr + at, mask=s[:, None] < length, other=0.0)
        v = tl.load(v_cache_ptr + at, mask=s[:, None] < length, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * sm_scale
        scores = tl.where(s[None, :] < length, scores, -float("inf"))
        m_new = tl.maximum(m, tl.max(scores, 1))
        p = tl.exp(scores - m_new[:, None])
        fix = tl.exp(m - m_new)
        total = total * fix + tl.sum(p, 1)
        acc = tl.dot(p, v, acc * fix[:, None], input_precision="ieee")
        m = m_new
    o = acc / tl.where(total > 0, total, 1.0)[:, None]
    at = row * SPLITS + split
    tl.store(o_ptr + at[:, None] * D + d, o, mask=heads[:, None])
    tl.store(lse_ptr + at, m + tl.log(total), mask=heads)


@triton.jit
def merge_splits(part_ptr, lse_ptr, o_ptr, B, H, S, D: tl.constexpr, BLOCK_S: tl.constexpr):
    row = tl.program_id(0) * H + tl.program_id(1)
    s = tl.arange(0, BLOCK_S)
    d = tl.arange(0, D)
    lse = tl.load(lse_ptr + row * S + s, mask=s < S, other=-float("inf"))
    part = tl.load(part_ptr + (row * S + s)[:, None] * D + d[None, :], mask=s[:, None] < S, other=0.0)
    w = tl.exp(lse - tl.max(lse, 0))
    w = w / tl.sum(w, 0)
    tl.store(o_ptr + row * D + d, tl.sum(w[:, None] * part, 0))


@triton.jit
def topk_route(logits_ptr, weight_ptr, expert_ptr, N, E, TOP, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    e = tl.arange(0, BLOCK)
    x = tl.load(logits_ptr + n * E + e, mask=e < E, other=-float("inf"))
    first = tl.max(x, 0)
    kept = tl.zeros([BLOCK], dtype=tl.float32)
    for i in range(0, TOP):
        top = tl.max(x, 0)
        at = tl.argmax(x, 0)
        tl.store(expert_ptr + n * TOP + i, at)
        kept = tl.where(e == i, tl.exp(top - first), kept)
        x = tl.where(e == at, -float("inf"), x)
    tl.store(weight_ptr + n * TOP + e, kept / tl.sum(kept, 0), mask=e < TOP)


@triton.jit
def grouped_matmul(x_ptr, w_ptr, offset_ptr, y_ptr, N, E, D, F,
                   BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_D: tl.constexpr):
    e = tl.program_id(0)
    first = tl.load(offset_ptr + e) + tl.program_id(1) * BLOCK_N
    end = tl.load(offset_ptr + e + 1)
    if first < end:
        n = first + tl.arange(0, BLOCK_N)
        f = tl.program_id(2) * BLOCK_F + tl.arange(0, BLOCK_F)
        acc = tl.zeros([BLOCK_N, BLOCK_F], dtype=tl.float32)
        for start in range(0, D, BLOCK_D):
            d = start + tl.arange(0, BLOCK_D)
            x = tl.load(x_ptr + n[:, None] * D + d[None, :],
                        mask=(n[:, None] < end) & (d[None, :] < D), other=0.0)
            w = tl.load(w_ptr + (e * D + d)[:, None] * F + f[None, :],
                        mask=(d[:, None] < D) & (f[None, :] < F), other=0.0)
            acc = tl.dot(x, w, acc, input_precision="ieee")
        tl.store(y_ptr + n[:, None] * F + f[None, :], acc, mask=(n[:, None] < end) & (f[None, :] < F))
