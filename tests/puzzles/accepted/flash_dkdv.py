"""Right answers to flash_dkdv in unusual valid forms, each below a line that says what is unusual."""

import triton
import triton.language as tl


# --- transposed scores, the queries from the last
@triton.jit
def flash_dkdv(q_ptr, k_ptr, v_ptr, do_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr, H, T, sm_scale,
               D: tl.constexpr, BLOCK: tl.constexpr):
    h, i = tl.program_id(0), tl.program_id(1)
    j = i * BLOCK + tl.arange(0, BLOCK)[:, None]
    d = tl.arange(0, D)[None, :]
    mine = (h * T + j) * D + d
    k = tl.load(k_ptr + mine, mask=j < T, other=0.0)
    v = tl.load(v_ptr + mine, mask=j < T, other=0.0)
    dk = tl.zeros([BLOCK, D], dtype=tl.float32)
    dv = tl.zeros([BLOCK, D], dtype=tl.float32)
    for block in range(tl.cdiv(T, BLOCK) - 1, i - 1, -1):
        t = block * BLOCK + tl.arange(0, BLOCK)
        at = (h * T + t)[:, None] * D + d
        q = tl.load(q_ptr + at, mask=t[:, None] < T, other=0.0)
        do = tl.load(do_ptr + at, mask=t[:, None] < T, other=0.0)
        lse = tl.load(lse_ptr + h * T + t, mask=t < T, other=float("inf"))[None, :]
        delta = tl.load(delta_ptr + h * T + t, mask=t < T, other=0.0)[None, :]
        turned = tl.dot(k, q.T, input_precision="ieee") * sm_scale
        p = tl.where(j <= t[None, :], tl.exp(turned - lse), 0.0)
        dv += tl.dot(p, do, input_precision="ieee")
        ds = p * (tl.dot(v, do.T, input_precision="ieee") - delta) * sm_scale
        dk += tl.dot(ds, q, input_precision="ieee")
    tl.store(dk_ptr + mine, dk, mask=j < T)
    tl.store(dv_ptr + mine, dv, mask=j < T)


# --- one query after the other, without tl.dot
@triton.jit
def flash_dkdv(q_ptr, k_ptr, v_ptr, do_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr, H, T, sm_scale,
               D: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0) * T
    j = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    d = tl.arange(0, D)
    mine = (row + j)[:, None] * D + d[None, :]
    k = tl.load(k_ptr + mine, mask=(j < T)[:, None], other=0.0)
    v = tl.load(v_ptr + mine, mask=(j < T)[:, None], other=0.0)
    dk, dv = tl.zeros_like(k), tl.zeros_like(v)
    t = tl.program_id(1) * BLOCK
    while t < T:
        q = tl.load(q_ptr + (row + t) * D + d)[None, :]
        do = tl.load(do_ptr + (row + t) * D + d)[None, :]
        s = tl.sum(k * q, axis=1) * sm_scale
        p = tl.where(j <= t, tl.exp(s - tl.load(lse_ptr + row + t)), 0.0)
        dv += p[:, None] * do
        ds = p * (tl.sum(v * do, axis=1) - tl.load(delta_ptr + row + t))
        dk += ds[:, None] * q
        t += 1
    tl.store(dk_ptr + mine, sm_scale * dk, mask=(j < T)[:, None])
    tl.store(dv_ptr + mine, dv, mask=(j < T)[:, None])


# --- the diagonal by itself, then blocks that see all keys, in a helper; block pointers
@triton.jit
def seen_from(q, do, lse, delta, k, v, seen, sm_scale, dk, dv):
    s = tl.dot(q, tl.trans(k), input_precision="ieee") * sm_scale
    p = tl.exp(tl.where(seen, s - lse[:, None], -float("inf")))
    dv = tl.dot(tl.trans(p), do, dv, input_precision="ieee")
    ds = p * (tl.dot(do, tl.trans(v), input_precision="ieee") - delta[:, None])
    return tl.dot(tl.trans(ds), q, dk, input_precision="ieee"), dv


@triton.jit
def flash_dkdv(q_ptr, k_ptr, v_ptr, do_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr, H, T, sm_scale,
               D: tl.constexpr, BLOCK: tl.constexpr):
    head, first = tl.program_id(0) * T, tl.program_id(1) * BLOCK
    lane = tl.arange(0, BLOCK)
    k_at = tl.make_block_ptr(k_ptr + head * D, (T, D), (D, 1), (first, 0), (BLOCK, D), (1, 0))
    v_at = tl.make_block_ptr(v_ptr + head * D, (T, D), (D, 1), (first, 0), (BLOCK, D), (1, 0))
    q_at = tl.make_block_ptr(q_ptr + head * D, (T, D), (D, 1), (first, 0), (BLOCK, D), (1, 0))
    do_at = tl.make_block_ptr(do_ptr + head * D, (T, D), (D, 1), (first, 0), (BLOCK, D), (1, 0))
    k = tl.load(k_at, boundary_check=(0,), padding_option="zero")
    v = tl.load(v_at, boundary_check=(0,), padding_option="zero")
    dk = tl.zeros([BLOCK, D], dtype=tl.float32)
    dv = tl.zeros([BLOCK, D], dtype=tl.float32)
    for start in range(first, T, BLOCK):
        t = start + lane
        q = tl.load(q_at, boundary_check=(0,), padding_option="zero")
        do = tl.load(do_at, boundary_check=(0,), padding_option="zero")
        lse = tl.load(lse_ptr + head + t, mask=t < T, other=0.0)
        delta = tl.load(delta_ptr + head + t, mask=t < T, other=0.0)
        seen = (t < T)[:, None] & (lane >= 0)[None, :]
        if start == first:
            seen = seen & (lane[:, None] >= lane[None, :])
        dk, dv = seen_from(q, do, lse, delta, k, v, seen, sm_scale, dk, dv)
        q_at = tl.advance(q_at, (BLOCK, 0))
        do_at = tl.advance(do_at, (BLOCK, 0))
    at = (head + first + lane)[:, None] * D + tl.arange(0, D)[None, :]
    tl.store(dk_ptr + at, dk * sm_scale, mask=(first + lane)[:, None] < T)
    tl.store(dv_ptr + at, dv, mask=(first + lane)[:, None] < T)
