"""Right answers to hstu_attention in unusual valid forms, each below a line that says what is unusual."""

import triton
import triton.language as tl


# --- out at once where a sequence has no such items; the logistic function by hand
@triton.jit
def hstu_attention(q_ptr, k_ptr, v_ptr, offset_ptr, time_ptr, position_bias_ptr, time_bias_ptr, o_ptr,
                   B, L, H, N, M, WIDTH, D: tl.constexpr, BLOCK: tl.constexpr):
    b, h = tl.program_id(0), tl.program_id(1)
    first, end = tl.load(offset_ptr + b), tl.load(offset_ptr + b + 1)
    begin = first + tl.program_id(2) * BLOCK
    if begin >= end:
        return
    i = begin + tl.arange(0, BLOCK)[:, None]
    d = tl.arange(0, D)[None, :]
    q = tl.load(q_ptr + (i * H + h) * D + d, mask=i < end, other=0.0)
    time_i = tl.load(time_ptr + i, mask=i < end, other=0)
    acc = tl.zeros([BLOCK, D], dtype=tl.float32)
    for start in range(first, begin + BLOCK, BLOCK):
        j = start + tl.arange(0, BLOCK)
        at = (j[:, None] * H + h) * D + d
        k = tl.load(k_ptr + at, mask=j[:, None] < end, other=0.0)
        v = tl.load(v_ptr + at, mask=j[:, None] < end, other=0.0)
        gap = time_i - tl.load(time_ptr + j, mask=j < end, other=0)[None, :]
        seen = (j[None, :] <= i) & (i < end)
        bias = tl.load(position_bias_ptr + i - j[None, :], mask=seen, other=0.0)
        bias += tl.load(time_bias_ptr + tl.minimum(gap // WIDTH, M - 1), mask=seen, other=0.0)
        s = tl.dot(q, k.T, input_precision="ieee") + bias
        acc += tl.dot(tl.where(seen, s / (1 + tl.exp(-s)), 0.0), v, input_precision="ieee")
    tl.store(o_ptr + (i * H + h) * D + d, acc / N, mask=i < end)


# --- the division by N before the product, from the diagonal down, indices held in range in place of masks
@triton.jit
def hstu_attention(q_ptr, k_ptr, v_ptr, offset_ptr, time_ptr, position_bias_ptr, time_bias_ptr, o_ptr,
                   B, L, H, N, M, WIDTH, D: tl.constexpr, BLOCK: tl.constexpr):
    b, h, n = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first = tl.load(offset_ptr + b)
    length = tl.load(offset_ptr + b + 1) - first
    d = tl.arange(0, D)
    if n * BLOCK < length:
        i = n * BLOCK + tl.arange(0, BLOCK)
        row = ((first + tl.minimum(i, length - 1)) * H + h) * D
        q = tl.load(q_ptr + row[:, None] + d[None, :])
        time_i = tl.load(time_ptr + first + tl.minimum(i, length - 1))
        acc = tl.zeros([BLOCK, D], dtype=tl.float32)
        block = n
        while block >= 0:
            j = tl.minimum(block * BLOCK + tl.arange(0, BLOCK), length - 1)
            real = block * BLOCK + tl.arange(0, BLOCK) < length
            at = ((first + j) * H + h)[:, None] * D + d[None, :]
            gap = time_i[:, None] - tl.load(time_ptr + first + j)[None, :]
            seen = (i[:, None] >= j[None, :]) & real[None, :] & (i < length)[:, None]
            bucket = tl.where(gap // WIDTH < M, gap // WIDTH, M - 1)
            s = tl.dot(q, tl.trans(tl.load(k_ptr + at)), input_precision="ieee")
            s += tl.load(time_bias_ptr + bucket, mask=seen, other=0.0)
            s += tl.load(position_bias_ptr + tl.abs(i[:, None] - j[None, :]), mask=seen, other=0.0)
            weights = tl.where(seen, tl.sigmoid(s) * s * (1.0 / N), 0.0)
            acc = tl.dot(weights, tl.load(v_ptr + at), acc, input_precision="ieee")
            block -= 1
        tl.store(o_ptr + ((first + i) * H + h)[:, None] * D + d[None, :], acc, mask=(i < length)[:, None])


# --- block pointers into one sequence of one head, without tl.dot
@triton.jit
def silu(x):
    return tl.where(x > -80.0, x * tl.sigmoid(x), 0.0)


@triton.jit
def hstu_attention(q_ptr, k_ptr, v_ptr, offset_ptr, time_ptr, position_bias_ptr, time_bias_ptr, o_ptr,
                   B, L, H, N, M, WIDTH, D: tl.constexpr, BLOCK: tl.constexpr):
    b, h, n = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first = tl.load(offset_ptr + b)
    length = tl.load(offset_ptr + b + 1) - first
    if length <= n * BLOCK:
        return
    base = (first * H + h) * D
    i = n * BLOCK + tl.arange(0, BLOCK)
    q_at = tl.make_block_ptr(q_ptr + base, (length, D), (H * D, 1), (n * BLOCK, 0), (BLOCK, D), (1, 0))
    o_at = tl.make_block_ptr(o_ptr + base, (length, D), (H * D, 1), (n * BLOCK, 0), (BLOCK, D), (1, 0))
    q = tl.load(q_at, boundary_check=(0,), padding_option="zero")
    time_i = tl.load(time_ptr + first + i, mask=i < length, other=0)
    acc = tl.zeros([BLOCK, D], dtype=tl.float32)
    for j in range(0, tl.minimum((n + 1) * BLOCK, length)):
        at = base + j * H * D + tl.arange(0, D)
        k = tl.load(k_ptr + at)
        seen = (j <= i) & (i < length)
        bucket = tl.minimum((time_i - tl.load(time_ptr + first + j)) // WIDTH, M - 1)
        s = tl.sum(q * k[None, :], 1) + tl.load(position_bias_ptr + i - j, mask=seen, other=0.0)
        s = s + tl.load(time_bias_ptr + bucket, mask=seen, other=0.0)
        acc += tl.where(seen, silu(s), 0.0)[:, None] * tl.load(v_ptr + at)[None, :]
    tl.store(o_at, acc / N, boundary_check=(0,))
