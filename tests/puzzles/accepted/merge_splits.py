"""Right answers to merge_splits in unusual valid forms, each below a line that says what is unusual."""

import triton
import triton.language as tl


# --- the log-sum-exp of all parts first
@triton.jit
def merge_splits(part_ptr, lse_ptr, o_ptr, B, H, S, D: tl.constexpr, BLOCK_S: tl.constexpr):
    row = tl.program_id(0) * H + tl.program_id(1)
    s = tl.arange(0, BLOCK_S)
    d = tl.arange(0, D)
    lse = tl.load(lse_ptr + row * S + s, mask=s < S, other=-float("inf"))
    top = tl.max(lse, 0)
    total_lse = top + tl.log(tl.sum(tl.exp(lse - top), 0))
    w = tl.exp(lse - total_lse)
    part = tl.load(part_ptr + (row * S + s)[:, None] * D + d[None, :], mask=s[:, None] < S, other=0.0)
    tl.store(o_ptr + row * D + d, tl.sum(w[:, None] * part, 0))


# --- part after part, as if they were blocks of keys
@triton.jit
def merge_splits(part_ptr, lse_ptr, o_ptr, B, H, S, D: tl.constexpr, BLOCK_S: tl.constexpr):
    row = tl.program_id(0) * H + tl.program_id(1)
    d = tl.arange(0, D)
    m, total = -float("inf"), 0.0
    acc = tl.zeros([D], dtype=tl.float32)
    for s in range(min(S, BLOCK_S)):
        lse = tl.load(lse_ptr + row * S + s)
        if lse > -float("inf"):
            m_new = tl.maximum(m, lse)
            fix = tl.exp(m - m_new)
            p = tl.exp(lse - m_new)
            total = total * fix + p
            acc = acc * fix + p * tl.load(part_ptr + (row * S + s) * D + d)
            m = m_new
    tl.store(o_ptr + row * D + d, acc / total)


# --- the parts lie in columns, empty ones are not loaded, one division at the end
@triton.jit
def merge_splits(part_ptr, lse_ptr, o_ptr, B, H, S, D: tl.constexpr, BLOCK_S: tl.constexpr):
    row = tl.program_id(0) * H + tl.program_id(1)
    s = tl.arange(0, BLOCK_S)[None, :]
    d = tl.arange(0, D)[:, None]
    lse = tl.load(lse_ptr + row * S + s, mask=s < S, other=float("-inf"))
    full = (s < S) & (lse != float("-inf"))
    part = tl.load(part_ptr + (row * S + s) * D + d, mask=full, other=0.0)
    w = tl.where(full, tl.exp2((lse - tl.max(lse)) * 1.4426950408889634), 0.0)
    o = tl.sum(part * w, axis=1) / tl.sum(w)
    tl.store(o_ptr + row * D + tl.arange(0, D), o)
