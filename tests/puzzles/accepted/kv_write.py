"""Right answers to kv_write in unusual valid forms, each below a line that says what is unusual."""

import triton
import triton.language as tl


# --- a token without a slot returns at once
@triton.jit
def kv_write(new_ptr, slot_ptr, cache_ptr, N, S, W, BLOCK: tl.constexpr):
    slot = tl.load(slot_ptr + tl.program_id(0))
    if slot < 0:
        return
    w = tl.arange(0, BLOCK)
    row = tl.load(new_ptr + tl.program_id(0) * W + w, mask=w < W, other=0.0)
    tl.store(cache_ptr + slot.to(tl.int64) * W + w, row, mask=w < W)


# --- element after element, scalar masked loads and stores
@triton.jit
def kv_write(new_ptr, slot_ptr, cache_ptr, N, S, W, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    slot = tl.load(slot_ptr + n, mask=n < N, other=-1)
    for w in range(BLOCK):
        x = tl.load(new_ptr + n * W + w, mask=w < W, other=0.0)
        tl.store(cache_ptr + slot * W + w, x, mask=(w < W) & (slot != -1))


# --- block pointers to one row, the slot of padding held at 0
@triton.jit
def kv_write(new_ptr, slot_ptr, cache_ptr, N, S, W, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    slot = tl.load(slot_ptr + n)
    new = tl.make_block_ptr(new_ptr + n * W, (W,), (1,), (0,), (BLOCK,), (0,))
    used = tl.where(slot >= 0, W, 0)
    cache = tl.make_block_ptr(cache_ptr + tl.maximum(slot, 0) * W, (used,), (1,), (0,), (BLOCK,), (0,))
    tl.store(cache, tl.load(new, boundary_check=(0,)), boundary_check=(0,))
