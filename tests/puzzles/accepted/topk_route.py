"""Right answers to topk_route in unusual valid forms, each below a line that says what is unusual."""

import triton
import triton.language as tl


# --- the rank of each expert: how many stand before it
@triton.jit
def topk_route(logits_ptr, weight_ptr, expert_ptr, N, E, TOP, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    e = tl.arange(0, BLOCK)
    x = tl.load(logits_ptr + n * E + e, mask=e < E, other=-float("inf"))
    larger = x[None, :] > x[:, None]
    earlier = (x[None, :] == x[:, None]) & (e[None, :] < e[:, None])
    rank = tl.sum((larger | earlier).to(tl.int32), 1)
    chosen = (rank < TOP) & (e < E)
    p = tl.where(chosen, tl.exp(x - tl.max(x, 0)), 0.0)
    tl.store(weight_ptr + n * TOP + rank, p / tl.sum(p, 0), mask=chosen)
    tl.store(expert_ptr + n * TOP + rank, e, mask=chosen)


# --- chosen lanes are remembered, not overwritten; the weights in a second loop
@triton.jit
def topk_route(logits_ptr, weight_ptr, expert_ptr, N, E, TOP, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    e = tl.arange(0, BLOCK)
    x = tl.load(logits_ptr + n * E + e, mask=e < E, other=float("-inf"))
    free = e < E
    order = tl.full([BLOCK], -1, tl.int32)
    i = 0
    while i < TOP:
        best = tl.max(tl.where(free, x, float("-inf")), 0)
        at = tl.min(tl.where(free & (x == best), e, BLOCK), 0)
        order = tl.where(e == at, i, order)
        free = free & (e != at)
        i += 1
    p = tl.where(order >= 0, tl.exp(x - tl.max(x, 0)), 0.0)
    w = p / tl.sum(p, 0)
    tl.store(weight_ptr + n * TOP + order, w, mask=order >= 0)
    tl.store(expert_ptr + n * TOP + order, e, mask=order >= 0)


# --- 64-bit keys of value and index, sorted
@triton.jit
def topk_route(logits_ptr, weight_ptr, expert_ptr, N, E, TOP, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    e = tl.arange(0, BLOCK)
    x = tl.load(logits_ptr + n * E + e, mask=e < E, other=-float("inf")) + 0.0
    bits = x.to(tl.int32, bitcast=True)
    rising = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64)
    keys = tl.sort((rising << 32) | (BLOCK - 1 - e).to(tl.int64), descending=True)
    bits = (keys >> 32).to(tl.int32)
    x = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.float32, bitcast=True)
    expert = BLOCK - 1 - (keys & 0xFFFFFFFF).to(tl.int32)
    p = tl.where(e < TOP, tl.exp(x - tl.max(x, 0)), 0.0)
    tl.store(weight_ptr + n * TOP + e, p / tl.sum(p, 0), mask=e < TOP)
    tl.store(expert_ptr + n * TOP + e, expert, mask=e < TOP)


# --- tl.argmax with its value, and a running sum of the weights
@triton.jit
def topk_route(logits_ptr, weight_ptr, expert_ptr, N, E, TOP, BLOCK: tl.constexpr):
    n = tl.program_id(0)
    e = tl.arange(0, BLOCK)
    x = tl.load(logits_ptr + n * E + e, mask=e < E, other=-float("inf"))
    kept = tl.full([BLOCK], -float("inf"), dtype=tl.float32)
    for i in range(TOP):
        top, at = tl.max(x, axis=0, return_indices=True)
        kept = tl.where(e == i, top, kept)
        tl.store(expert_ptr + n * TOP + i, at)
        x = tl.where(e == at, -float("inf"), x)
    tl.store(weight_ptr + n * TOP + e, tl.softmax(kept), mask=e < TOP)
