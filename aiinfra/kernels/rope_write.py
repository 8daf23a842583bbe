"""RoPE and the cache write in one kernel: turn q and k, and put k and v where attention will look for them.

    q ──► turned ──────────────► q' [N, H, Dh]
    k ──► turned ──┐                                          rope, then kv_write     the turned keys make a
    v ─────────────┴─► slots ──► k_cache, v_cache             fused                   way to memory less

Decode moves a few kilobytes here, so the bytes are not the point: a kernel less has to be asked for, in every
layer. Each token is a program: it reads its angles once, and its slot; slot -1 turns q and writes nothing,
as in kv_write.py. Arithmetic is float32 and rounds once, to the cache's dtype. For serving: without a
gradient. vLLM and FlashInfer fuse the same two. Notebook 14.
"""

import torch
from torch import Tensor

from aiinfra.kernels.kv_write import kv_write_reference
from aiinfra.kernels.lang import pick_backend, tl, triton
from aiinfra.kernels.operators import launch, operator
from aiinfra.kernels.rope import cost as rope_cost
from aiinfra.kernels.rope import head_tiles, rope_reference, turn_heads
from aiinfra.perf.cost import Cost


def rope_write_reference(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, k_cache: Tensor,
                         v_cache: Tensor, slots: Tensor) -> Tensor:
    """What `rope_write` does, in plain PyTorch."""
    rows = torch.arange(len(q), device=q.device)
    turned = rope_reference(k, rows, cos, sin)
    kv_write_reference(turned, v, k_cache, v_cache, slots)
    return rope_reference(q, rows, cos, sin)


@triton.jit
def _kernel(q_ptr, k_ptr, v_ptr, cos_ptr, sin_ptr, q_out_ptr, k_cache_ptr, v_cache_ptr, slot_ptr,
            q_row, q_head, k_row, k_head, v_row, v_head, angle_row, query_heads, kv_heads, half,
            BLOCK_H: tl.constexpr, BLOCK_K: tl.constexpr, HALF: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)                     # N * H * Dh can pass 2^31
    pair = tl.arange(0, HALF)
    c = tl.load(cos_ptr + token * angle_row + pair, pair < half, other=0.0).to(tl.float32)[None, :]
    s = tl.load(sin_ptr + token * angle_row + pair, pair < half, other=0.0).to(tl.float32)[None, :]
    turn_heads(q_ptr + token * q_row, q_out_ptr + token * query_heads * half * 2, q_head,
               query_heads, c, s, half, BLOCK_H, HALF)
    slot = tl.load(slot_ptr + token)
    if slot >= 0:
        place = slot * kv_heads * half * 2
        turn_heads(k_ptr + token * k_row, k_cache_ptr + place, k_head, kv_heads, c, s, half, BLOCK_K, HALF)
        head, column = tl.arange(0, BLOCK_K)[:, None], tl.arange(0, 2 * HALF)[None, :]
        mask = (head < kv_heads) & (column < 2 * half)
        v = tl.load(v_ptr + token * v_row + head * v_head + column, mask)
        at = place + head * half * 2 + column
        tl.store(v_cache_ptr + at, v.to(v_cache_ptr.dtype.element_ty), mask)


@operator("rope_write", writes=("k_cache", "v_cache"))
def _rope_write(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, k_cache: Tensor, v_cache: Tensor,
                slots: Tensor) -> Tensor:
    """As `rope_write`, on a GPU."""
    (n, heads, size), kv_heads = q.shape, k.shape[1]
    turned = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    launch(_kernel, (n,), q, k, v, cos, sin, turned, k_cache, v_cache, slots, *q.stride()[:2],
           *k.stride()[:2], *v.stride()[:2], cos.stride(0), heads, kv_heads, size // 2,
           **head_tiles(heads, kv_heads, size))
    return turned


def rope_write(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, k_cache: Tensor, v_cache: Tensor,
               slots: Tensor, *, backend: str | None = None) -> Tensor:
    """Turned q [N, H, Dh]; turned k and plain v [N, K, Dh] go to slots [N] of the caches [blocks, P, K, Dh].

    cos and sin [N, Dh/2] are each token's own angles. slots: int64, as for `kv_write`; -1 writes nothing.
    Keys and values are converted to the caches' dtype. Not differentiable. Raises ValueError if shapes
    disagree or a cache is not contiguous.
    """
    n, size = q.shape[0], q.shape[-1]
    if k.shape != v.shape or k.shape[::2] != (n, size):
        raise ValueError(f"q is {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)}; pass "
                         "[N, H, Dh] and twice [N, K, Dh].")
    if size % 2 or cos.shape != (n, size // 2) or sin.shape != cos.shape:
        raise ValueError(f"cos {tuple(cos.shape)} and sin {tuple(sin.shape)} must both be [N, Dh/2] with an "
                         f"even head size; here N={n} and Dh={size}.")
    if k_cache.shape != v_cache.shape or k_cache.shape[2:] != k.shape[1:]:
        raise ValueError(f"caches are {tuple(k_cache.shape)} and {tuple(v_cache.shape)}; for k "
                         f"{tuple(k.shape)} both must be [blocks, P, K, Dh].")
    if not (k_cache.is_contiguous() and v_cache.is_contiguous()):
        raise ValueError(f"caches have strides {k_cache.stride()} and {v_cache.stride()}; both must be "
                         "contiguous.")
    if slots.shape != (n,) or slots.dtype != torch.int64:
        raise ValueError(f"slots is {slots.dtype} {tuple(slots.shape)}; pass one int64 for each of {n} rows.")
    if pick_backend(q, backend) == "torch":
        return rope_write_reference(q, k, v, cos, sin, k_cache, v_cache, slots)
    if cos.stride() != sin.stride() or cos.stride(-1) != 1:       # a view of wider tables is fine
        cos, sin = cos.contiguous(), sin.contiguous()
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    return _rope_write(q, k, v, cos, sin, k_cache, v_cache, slots.contiguous())


def cost(tokens: int, query_heads: int, kv_heads: int, head_size: int, bytes_per_value: float = 2) -> Cost:
    """Those of rope, and of values that are read and written once, and 8 bytes of slot a token."""
    turned = rope_cost(tokens, query_heads, kv_heads, head_size, bytes_per_value)
    values = tokens * (2 * kv_heads * head_size * bytes_per_value + 8)
    return Cost(turned.flops, turned.bytes + values)


def compile_cases(arch: int) -> list[dict]:
    """The head counts of SmolLM2 (9/3), Llama 8B (32/8) and 70B (64/8); see gpu/compile.py."""
    pointers = ("q", "k", "v", "cos", "sin", "q_out", "k_cache", "v_cache")
    strides = ("q_row", "q_head", "k_row", "k_head", "v_row", "v_head", "angle_row", "half")
    types = {f"{name}_ptr": "*bf16" for name in pointers} | {name: "i32:16" for name in strides}
    types["slot_ptr"] = "*i64"
    cases = []
    for heads, kv_heads, size in ((9, 3, 64), (32, 8, 128), (64, 8, 128)):
        tiles = head_tiles(heads, kv_heads, size)
        warps = tiles.pop("num_warps")
        cases.append(dict(name=f"bf16 H={heads} K={kv_heads} Dh={size}", kernel=_kernel, types=types,
                          constexprs=tiles, num_warps=warps))
    return cases
