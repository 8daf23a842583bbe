"""Right answers to flash_attention in unusual valid forms, each below a line that says what is unusual."""

import triton
import triton.language as tl


# --- whole blocks without a mask first, the diagonal last; powers of two
@triton.jit
def step(q, k, v, s_mask, m, total, acc):
    s = tl.where(s_mask, tl.dot(q, tl.trans(k), input_precision="ieee"), float("-inf"))
    m_new = tl.maximum(m, tl.max(s, 1))
    p = tl.math.exp2(s - m_new[:, None])
    fix = tl.math.exp2(m - m_new)
    acc = tl.dot(p, v, acc * fix[:, None], input_precision="ieee")
    return m_new, total * fix + tl.sum(p, 1), acc


@triton.jit
def flash_attention(q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, H, K, T, sm_scale, D: tl.constexpr,
                    BLOCK: tl.constexpr):
    h, i = tl.program_id(0), tl.program_id(1)
    k_ptr += h * K // H * T * D
    v_ptr += h * K // H * T * D
    t = i * BLOCK + tl.arange(0, BLOCK)
    d = tl.arange(0, D)
    q = tl.load(q_ptr + (h * T + t[:, None]) * D + d[None, :], mask=t[:, None] < T, other=0.0)
    q *= sm_scale * 1.4426950408889634
    m = tl.full([BLOCK], -float("inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    acc = tl.zeros([BLOCK, D], dtype=tl.float32)
    for start in range(0, i * BLOCK, BLOCK):
        at = (start + tl.arange(0, BLOCK))[:, None] * D + d[None, :]
        everywhere = tl.full([BLOCK, BLOCK], 1, tl.int1)
        m, total, acc = step(q, tl.load(k_ptr + at), tl.load(v_ptr + at), everywhere, m, total, acc)
    k = tl.load(k_ptr + t[:, None] * D + d[None, :], mask=t[:, None] < T, other=0.0)
    v = tl.load(v_ptr + t[:, None] * D + d[None, :], mask=t[:, None] < T, other=0.0)
    m, total, acc = step(q, k, v, t[:, None] >= t[None, :], m, total, acc)
    tl.store(o_ptr + (h * T + t[:, None]) * D + d[None, :], acc / total[:, None], mask=t[:, None] < T)
    tl.store(lse_ptr + h * T + t, (m + tl.log2(total)) * 0.6931471805599453, mask=t < T)


# --- tensor descriptors of each head, from the diagonal down to the first block
@triton.jit
def flash_attention(q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, H, K, T, sm_scale, D: tl.constexpr,
                    BLOCK: tl.constexpr):
    h, i = tl.program_id(0), tl.program_id(1)
    kv = h // (H // K) * T * D
    q_tiles = tl.make_tensor_descriptor(q_ptr + h * T * D, [T, D], [D, 1], [BLOCK, D])
    k_tiles = tl.make_tensor_descriptor(k_ptr + kv, [T, D], [D, 1], [BLOCK, D])
    v_tiles = tl.make_tensor_descriptor(v_ptr + kv, [T, D], [D, 1], [BLOCK, D])
    o_tiles = tl.make_tensor_descriptor(o_ptr + h * T * D, [T, D], [D, 1], [BLOCK, D])
    t = i * BLOCK + tl.arange(0, BLOCK)
    q = q_tiles.load([i * BLOCK, 0])
    m = tl.full([BLOCK], -float("inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    acc = tl.zeros([BLOCK, D], dtype=tl.float32)
    for block in range(i, -1, -1):
        j = block * BLOCK + tl.arange(0, BLOCK)
        s = tl.dot(q, k_tiles.load([block * BLOCK, 0]).T, input_precision="ieee") * sm_scale
        s = tl.where((t[:, None] >= j[None, :]) & (j[None, :] < T), s, -float("inf"))
        m_new = tl.maximum(m, tl.max(s, 1))
        p = tl.exp(s - m_new[:, None])
        fix = tl.exp(m - m_new)
        total = total * fix + tl.sum(p, 1)
        acc = acc * fix[:, None] + tl.dot(p, v_tiles.load([block * BLOCK, 0]), input_precision="ieee")
        m = m_new
    o_tiles.store([i * BLOCK, 0], acc / total[:, None])
    tl.store(lse_ptr + h * T + t, m + tl.log(total), mask=t < T)


# --- block pointers, keys loaded as [D, BLOCK], scores kept in log-sum-exp form
@triton.jit
def flash_attention(q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, H, K, T, sm_scale, D: tl.constexpr,
                    BLOCK: tl.constexpr):
    h, i = tl.program_id(0), tl.program_id(1)
    g = h // (H // K)
    t = i * BLOCK + tl.arange(0, BLOCK)
    q_at = tl.make_block_ptr(q_ptr + h * T * D, (T, D), (D, 1), (i * BLOCK, 0), (BLOCK, D), (1, 0))
    o_at = tl.make_block_ptr(o_ptr + h * T * D, (T, D), (D, 1), (i * BLOCK, 0), (BLOCK, D), (1, 0))
    k_at = tl.make_block_ptr(k_ptr + g * T * D, (D, T), (1, D), (0, 0), (D, BLOCK), (0, 1))
    v_at = tl.make_block_ptr(v_ptr + g * T * D, (T, D), (D, 1), (0, 0), (BLOCK, D), (1, 0))
    q = tl.load(q_at, boundary_check=(0,), padding_option="zero")
    o = tl.zeros([BLOCK, D], dtype=tl.float32)
    lse = tl.full([BLOCK], -float("inf"), dtype=tl.float32)
    for start in range(0, (i + 1) * BLOCK, BLOCK):
        j = start + tl.arange(0, BLOCK)
        k = tl.load(k_at, boundary_check=(1,), padding_option="zero")
        v = tl.load(v_at, boundary_check=(0,), padding_option="zero")
        s = sm_scale * tl.dot(q, k, input_precision="ieee")
        s = tl.where(t[:, None] < j[None, :], -float("inf"), s)
        top = tl.maximum(lse, tl.max(s, 1))
        new = top + tl.log(tl.exp(lse - top) + tl.sum(tl.exp(s - top[:, None]), 1))
        o = o * tl.exp(lse - new)[:, None]
        o = tl.dot(tl.exp(s - new[:, None]), v, o, input_precision="ieee")
        lse = new
        k_at = tl.advance(k_at, (0, BLOCK))
        v_at = tl.advance(v_at, (BLOCK, 0))
    tl.store(o_at, o, boundary_check=(0,))
    tl.store(lse_ptr + h * T + t, lse, mask=t < T)


# --- one key after the other, without tl.dot
@triton.jit
def flash_attention(q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, H, K, T, sm_scale, D: tl.constexpr,
                    BLOCK: tl.constexpr):
    h = tl.program_id(0)
    kv = h // (H // K) * T
    d = tl.arange(0, D)
    t = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row = (h * T + t)[:, None] * D + d[None, :]
    q = tl.load(q_ptr + row, mask=(t < T)[:, None], other=0.0)
    m = tl.full([BLOCK], -float("inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    acc = tl.zeros([BLOCK, D], dtype=tl.float32)
    for j in range(0, tl.minimum(T, (tl.program_id(1) + 1) * BLOCK)):
        k = tl.load(k_ptr + (kv + j) * D + d)
        v = tl.load(v_ptr + (kv + j) * D + d)
        s = tl.sum(q * k[None, :], 1) * sm_scale
        s = tl.where(t >= j, s, -float("inf"))
        m_new = tl.maximum(m, s)
        p = tl.exp(s - m_new)
        fix = tl.exp(m - m_new)
        total = total * fix + p
        acc = acc * fix[:, None] + p[:, None] * v[None, :]
        m = m_new
    tl.store(o_ptr + row, acc / total[:, None], mask=(t < T)[:, None])
    tl.store(lse_ptr + h * T + t, m + tl.log(total), mask=t < T)
