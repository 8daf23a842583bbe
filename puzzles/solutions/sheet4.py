"""Sheet 4, attention: one answer to each puzzle. Read as text by the judge."""

import triton
import triton.language as tl


@triton.jit
def scalar_flash(q_ptr, k_ptr, v_ptr, z_ptr, N, S, BLOCK_N: tl.constexpr, BLOCK_S: tl.constexpr):
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    q = tl.load(q_ptr + n, mask=n < N, other=0.0)
    m = tl.full([BLOCK_N], -float("inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK_N], dtype=tl.float32)
    acc = tl.zeros([BLOCK_N], dtype=tl.float32)
    for start in range(0, S, BLOCK_S):
        j = start + tl.arange(0, BLOCK_S)
        k = tl.load(k_ptr + j, mask=j < S, other=0.0)
        v = tl.load(v_ptr + j, mask=j < S, other=0.0)
        s = tl.where(j[None, :] < S, q[:, None] * k[None, :], -float("inf"))
        m_new = tl.maximum(m, tl.max(s, 1))
        p = tl.exp(s - m_new[:, None])
        fix = tl.exp(m - m_new)
        total = total * fix + tl.sum(p, 1)
        acc = acc * fix + tl.sum(p * v[None, :], 1)
        m = m_new
    tl.store(z_ptr + n, acc / total, mask=n < N)


@triton.jit
def flash_attention(q_ptr, k_ptr, v_ptr, o_ptr, lse_ptr, H, K, T, sm_scale, D: tl.constexpr,
                    BLOCK: tl.constexpr):
    h, i = tl.program_id(0), tl.program_id(1)
    kv = h // (H // K) * T * D
    t = i * BLOCK + tl.arange(0, BLOCK)
    d = tl.arange(0, D)
    q = tl.load(q_ptr + h * T * D + t[:, None] * D + d[None, :], mask=t[:, None] < T, other=0.0)
    m = tl.full([BLOCK], -float("inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    acc = tl.zeros([BLOCK, D], dtype=tl.float32)
    for start in range(0, (i + 1) * BLOCK, BLOCK):
        j = start + tl.arange(0, BLOCK)
        at = kv + j[:, None] * D + d[None, :]
        k = tl.load(k_ptr + at, mask=j[:, None] < T, other=0.0)
        v = tl.load(v_ptr + at, mask=j[:, None] < T, other=0.0)
        s = tl.dot(q, tl.trans(k), input_precision="ieee") * sm_scale
        s = tl.where((t[:, None] >= j[None, :]) & (j[None, :] < T), s, -float("inf"))
        m_new = tl.maximum(m, tl.max(s, 1))
        p = tl.exp(s - m_new[:, None])
        fix = tl.exp(m - m_new)
        total = total * fix + tl.sum(p, 1)
        acc = tl.dot(p, v, acc * fix[:, None], input_precision="ieee")
        m = m_new
    tl.store(o_ptr + h * T * D + t[:, None] * D + d[None, :], acc / total[:, None], mask=t[:, None] < T)
    tl.store(lse_ptr + h * T + t, m + tl.log(total), mask=t < T)


@triton.jit
def rope(x_ptr, cos_ptr, sin_ptr, position_ptr, y_ptr, N, H, P, stride_xn, stride_xh, stride_xd,
         D: tl.constexpr, BLOCK_H: tl.constexpr):
    n = tl.program_id(0)
    h = tl.arange(0, BLOCK_H)[:, None]
    i = tl.arange(0, D // 2)[None, :]
    row = tl.load(position_ptr + n) * (D // 2)
    c = tl.load(cos_ptr + row + i)
    s = tl.load(sin_ptr + row + i)
    low = tl.load(x_ptr + n * stride_xn + h * stride_xh + i * stride_xd, mask=h < H)
    high = tl.load(x_ptr + n * stride_xn + h * stride_xh + (i + D // 2) * stride_xd, mask=h < H)
    y = y_ptr + (n * H + h) * D + i
    tl.store(y, low * c - high * s, mask=h < H)
    tl.store(y + D // 2, high * c + low * s, mask=h < H)


@triton.jit
def flash_dq(q_ptr, k_ptr, v_ptr, do_ptr, lse_ptr, delta_ptr, dq_ptr, H, T, sm_scale,
             D: tl.constexpr, BLOCK: tl.constexpr):
    h, i = tl.program_id(0), tl.program_id(1)
    t = i * BLOCK + tl.arange(0, BLOCK)
    d = tl.arange(0, D)[None, :]
    mine = h * T * D + t[:, None] * D + d
    q = tl.load(q_ptr + mine, mask=t[:, None] < T, other=0.0)
    do = tl.load(do_ptr + mine, mask=t[:, None] < T, other=0.0)
    lse = tl.load(lse_ptr + h * T + t, mask=t < T, other=0.0)
    delta = tl.load(delta_ptr + h * T + t, mask=t < T, other=0.0)
    dq = tl.zeros([BLOCK, D], dtype=tl.float32)
    for start in range(0, (i + 1) * BLOCK, BLOCK):
        j = start + tl.arange(0, BLOCK)
        k = tl.load(k_ptr + h * T * D + j[:, None] * D + d, mask=j[:, None] < T, other=0.0)
        v = tl.load(v_ptr + h * T * D + j[:, None] * D + d, mask=j[:, None] < T, other=0.0)
        s = tl.dot(q, tl.trans(k), input_precision="ieee") * sm_scale
        p = tl.where(t[:, None] >= j[None, :], tl.exp(s - lse[:, None]), 0.0)
        dp = tl.dot(do, tl.trans(v), input_precision="ieee")
        ds = p * (dp - delta[:, None])
        dq = tl.dot(ds, k, dq, input_precision="ieee")
    tl.store(dq_ptr + mine, dq * sm_scale, mask=t[:, None] < T)


@triton.jit
def flash_dkdv(q_ptr, k_ptr, v_ptr, do_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr, H, T, sm_scale,
               D: tl.constexpr, BLOCK: tl.constexpr):
    h, i = tl.program_id(0), tl.program_id(1)
    j = i * BLOCK + tl.arange(0, BLOCK)
    d = tl.arange(0, D)[None, :]
    mine = h * T * D + j[:, None] * D + d
    k = tl.load(k_ptr + mine, mask=j[:, None] < T, other=0.0)
    v = tl.load(v_ptr + mine, mask=j[:, None] < T, other=0.0)
    dk = tl.zeros([BLOCK, D], dtype=tl.float32)
    dv = tl.zeros([BLOCK, D], dtype=tl.float32)
    for start in range(i * BLOCK, T, BLOCK):
        t = start + tl.arange(0, BLOCK)
        at = h * T * D + t[:, None] * D + d
        q = tl.load(q_ptr + at, mask=t[:, None] < T, other=0.0)
        do = tl.load(do_ptr + at, mask=t[:, None] < T, other=0.0)
        lse = tl.load(lse_ptr + h * T + t, mask=t < T, other=0.0)
        delta = tl.load(delta_ptr + h * T + t, mask=t < T, other=0.0)
        s = tl.dot(q, tl.trans(k), input_precision="ieee") * sm_scale
        seen = (t[:, None] >= j[None, :]) & (t[:, None] < T)
        p = tl.where(seen, tl.exp(s - lse[:, None]), 0.0)
        dv = tl.dot(tl.trans(p), do, dv, input_precision="ieee")
        dp = tl.dot(do, tl.trans(v), input_precision="ieee")
        ds = p * (dp - delta[:, None])
        dk = tl.dot(tl.trans(ds), q, dk, input_precision="ieee")
    tl.store(dk_ptr + mine, dk * sm_scale, mask=j[:, None] < T)
    tl.store(dv_ptr + mine, dv, mask=j[:, None] < T)


@triton.jit
def hstu_attention(q_ptr, k_ptr, v_ptr, offset_ptr, time_ptr, position_bias_ptr, time_bias_ptr, o_ptr,
                   B, L, H, N, M, WIDTH, D: tl.constexpr, BLOCK: tl.constexpr):
    b, h, n = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first = tl.load(offset_ptr + b)
    length = tl.load(offset_ptr + b + 1) - first
    if n * BLOCK < length:
        i = n * BLOCK + tl.arange(0, BLOCK)
        d = tl.arange(0, D)[None, :]
        mine = ((first + i)[:, None] * H + h) * D + d
        q = tl.load(q_ptr + mine, mask=i[:, None] < length, other=0.0)
        time_i = tl.load(time_ptr + first + i, mask=i < length, other=0)
        acc = tl.zeros([BLOCK, D], dtype=tl.float32)
        for start in range(0, (n + 1) * BLOCK, BLOCK):
            j = start + tl.arange(0, BLOCK)
            at = ((first + j)[:, None] * H + h) * D + d
            k = tl.load(k_ptr + at, mask=j[:, None] < length, other=0.0)
            v = tl.load(v_ptr + at, mask=j[:, None] < length, other=0.0)
            time_j = tl.load(time_ptr + first + j, mask=j < length, other=0)
            seen = (i[:, None] >= j[None, :]) & (i[:, None] < length)
            bucket = tl.minimum((time_i[:, None] - time_j[None, :]) // WIDTH, M - 1)
            s = tl.dot(q, tl.trans(k), input_precision="ieee")
            s += tl.load(position_bias_ptr + (i[:, None] - j[None, :]), mask=seen, other=0.0)
            s += tl.load(time_bias_ptr + bucket, mask=seen, other=0.0)
            weights = tl.where(seen, s * tl.sigmoid(s), 0.0) / N
            acc = tl.dot(weights, v, acc, input_precision="ieee")
        tl.store(o_ptr + mine, acc, mask=i[:, None] < length)
