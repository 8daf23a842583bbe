"""Right answers to flash_dq in unusual valid forms, each below a line that says what is unusual."""

import triton
import triton.language as tl


# --- from the diagonal down, in powers of two, the scale in q
@triton.jit
def flash_dq(q_ptr, k_ptr, v_ptr, do_ptr, lse_ptr, delta_ptr, dq_ptr, H, T, sm_scale,
             D: tl.constexpr, BLOCK: tl.constexpr):
    LOG2_E: tl.constexpr = 1.4426950408889634
    h, i = tl.program_id(0), tl.program_id(1)
    t = i * BLOCK + tl.arange(0, BLOCK)[:, None]
    d = tl.arange(0, D)[None, :]
    mine = (h * T + t) * D + d
    q = tl.load(q_ptr + mine, mask=t < T, other=0.0) * (sm_scale * LOG2_E)
    do = tl.load(do_ptr + mine, mask=t < T, other=0.0)
    lse = tl.load(lse_ptr + h * T + t, mask=t < T, other=0.0) * LOG2_E
    delta = tl.load(delta_ptr + h * T + t, mask=t < T, other=0.0)
    dq = tl.zeros([BLOCK, D], dtype=tl.float32)
    for block in range(i, -1, -1):
        j = block * BLOCK + tl.arange(0, BLOCK)
        at = (h * T + j[None, :]) * D + tl.arange(0, D)[:, None]
        k = tl.load(k_ptr + at, mask=j[None, :] < T, other=0.0)
        v = tl.load(v_ptr + at, mask=j[None, :] < T, other=0.0)
        p = tl.exp2(tl.dot(q, k, input_precision="ieee") - lse)
        p = tl.where((t >= j[None, :]) & (j[None, :] < T), p, 0.0)
        ds = p * (tl.dot(do, v, input_precision="ieee") - delta)
        dq += tl.dot(ds, k.T, input_precision="ieee")
    tl.store(dq_ptr + mine, dq * sm_scale, mask=t < T)


# --- one key after the other, without tl.dot
@triton.jit
def flash_dq(q_ptr, k_ptr, v_ptr, do_ptr, lse_ptr, delta_ptr, dq_ptr, H, T, sm_scale,
             D: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0) * T
    t = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    d = tl.arange(0, D)
    mine = (row + t)[:, None] * D + d[None, :]
    q = tl.load(q_ptr + mine, mask=(t < T)[:, None], other=0.0)
    do = tl.load(do_ptr + mine, mask=(t < T)[:, None], other=0.0)
    lse = tl.load(lse_ptr + row + t, mask=t < T, other=float("inf"))
    delta = tl.load(delta_ptr + row + t, mask=t < T, other=0.0)
    dq = tl.zeros([BLOCK, D], dtype=tl.float32)
    for j in range(0, tl.minimum((tl.program_id(1) + 1) * BLOCK, T)):
        k = tl.load(k_ptr + (row + j) * D + d)[None, :]
        v = tl.load(v_ptr + (row + j) * D + d)[None, :]
        p = tl.where(t >= j, tl.exp(sm_scale * tl.sum(q * k, 1) - lse), 0.0)
        ds = p * (tl.sum(do * v, 1) - delta) * sm_scale
        dq += ds[:, None] * k
    tl.store(dq_ptr + mine, dq, mask=(t < T)[:, None])


# --- tensor descriptors, and hidden scores at minus infinity before exp
@triton.jit
def flash_dq(q_ptr, k_ptr, v_ptr, do_ptr, lse_ptr, delta_ptr, dq_ptr, H, T, sm_scale,
             D: tl.constexpr, BLOCK: tl.constexpr):
    head, i = tl.program_id(0) * T * D, tl.program_id(1)
    first = i * BLOCK
    q = tl.make_tensor_descriptor(q_ptr + head, [T, D], [D, 1], [BLOCK, D]).load([first, 0])
    do = tl.make_tensor_descriptor(do_ptr + head, [T, D], [D, 1], [BLOCK, D]).load([first, 0])
    k_tiles = tl.make_tensor_descriptor(k_ptr + head, [T, D], [D, 1], [BLOCK, D])
    v_tiles = tl.make_tensor_descriptor(v_ptr + head, [T, D], [D, 1], [BLOCK, D])
    dq_tiles = tl.make_tensor_descriptor(dq_ptr + head, [T, D], [D, 1], [BLOCK, D])
    t = first + tl.arange(0, BLOCK)
    lse = tl.load(lse_ptr + tl.program_id(0) * T + t, mask=t < T, other=0.0)
    delta = tl.load(delta_ptr + tl.program_id(0) * T + t, mask=t < T, other=0.0)
    dq = tl.zeros([BLOCK, D], dtype=tl.float32)
    for start in range(0, first + BLOCK, BLOCK):
        j = start + tl.arange(0, BLOCK)
        k = k_tiles.load([start, 0])
        s = tl.dot(q, tl.trans(k), input_precision="ieee") * sm_scale
        s = tl.where(t[:, None] >= j[None, :], s, -float("inf"))
        p = tl.exp(s - lse[:, None])
        dp = tl.dot(do, tl.trans(v_tiles.load([start, 0])), input_precision="ieee")
        dq = tl.dot(p * (dp - delta[:, None]), k, dq, input_precision="ieee")
    dq_tiles.store([first, 0], dq * sm_scale)
