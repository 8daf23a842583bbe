"""Right answers to argmax in unusual valid forms, each below a line that says what is unusual."""

import triton
import triton.language as tl


# --- the best of each lane, and the smallest place among the best
@triton.jit
def argmax(x_ptr, token_ptr, N, V, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    best = tl.full([BLOCK], -float("inf"), tl.float32)
    at = tl.full([BLOCK], 2147483647, tl.int32)
    for start in range(0, V, BLOCK):
        x = tl.load(x_ptr + row * V + start + lane, mask=start + lane < V, other=-float("inf"))
        better = x > best
        at = tl.where(better, start + lane, at)
        best = tl.where(better, x, best)
    top = tl.max(best, 0)
    tl.store(token_ptr + row, tl.min(tl.where(best == top, at, 2147483647), 0))


# --- backwards, where an equal one takes over
@triton.jit
def argmax(x_ptr, token_ptr, N, V, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    best = -float("inf")
    at = 0
    for block in range(tl.cdiv(V, BLOCK) - 1, -1, -1):
        v = block * BLOCK + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * V + v, mask=v < V, other=-float("inf"))
        top, place = tl.max(x, 0, return_indices=True)
        if top >= best:
            best = top
            at = block * BLOCK + place
    tl.store(token_ptr + row, at)


# --- tl.reduce over pairs, with a function of one's own
@triton.jit
def first_of_the_largest(a, i, b, j):
    take_a = (a > b) | ((a == b) & (i < j))
    return tl.where(take_a, a, b), tl.where(take_a, i, j)


@triton.jit
def argmax(x_ptr, token_ptr, N, V, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    best = -float("inf")
    at = 2147483647
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * V + v, mask=v < V, other=-float("inf"))
        top, place = tl.reduce((x, v), 0, first_of_the_largest)
        best, at = first_of_the_largest(best, at, top, place)
    tl.store(token_ptr + row, at)


# --- value and place in one 64-bit key
@triton.jit
def argmax(x_ptr, token_ptr, N, V, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    best = tl.full([BLOCK], -0x7FFFFFFFFFFFFFFF, tl.int64)
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + row * V + v, mask=v < V, other=-float("inf")) + 0.0
        bits = x.to(tl.int32, bitcast=True)
        rising = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
        key = (rising.to(tl.int64) << 32) | (0x7FFFFFFF - v).to(tl.int64)
        best = tl.maximum(best, key)
    tl.store(token_ptr + row, 0x7FFFFFFF - (tl.max(best, 0) & 0x7FFFFFFF).to(tl.int32))
