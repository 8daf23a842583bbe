"""Write the newest keys and values into the paged KV cache, each token to its slot.

    k_cache, v_cache  [blocks, P, K, Dh]      a block is P tokens; a request owns any blocks at all
                       block 0   block 1   block 2        slot = block * P + offset
    tokens a0 a1 b0 ─► [ . . ]   [a0 a1]   [b0 . ]        slots = [2, 3, 4] for P = 2

This is the layout of every kernel here: two contiguous tensors, the heads of a token side by side.
A decode step writes one row of K * Dh values a request, a copy bound by memory and by the launch,
so keys and values go in one kernel. Slot -1 writes nothing: a CUDA graph always runs at its full
batch, and the rows that pad it must not land in anyone's block. No two tokens may share a slot.
A latent cache (DeepSeek's MLA) is one tensor, whose values are a part of its keys: it takes keys alone.
Kwon et al. 2023, arXiv 2309.06180. Notebook 13.
"""

import torch
from torch import Tensor

from aiinfra.kernels.lang import pick_backend, tl, triton
from aiinfra.kernels.operators import launch, operator
from aiinfra.perf.cost import Cost

_MAX_ROW = 65536          # K * Dh values must fit in one program's registers


def kv_write_reference(k: Tensor, v: Tensor | None, k_cache: Tensor, v_cache: Tensor | None,
                       slots: Tensor) -> None:
    """What `kv_write` does, in plain PyTorch."""
    limit = k_cache.shape[0] * k_cache.shape[1]
    if slots.numel() and (slots.min() < -1 or slots.max() >= limit):
        raise ValueError(f"slots run from {slots.min()} to {slots.max()}; this cache has 0 … {limit - 1}, "
                         "and -1 to write nothing.")
    if (slots < 0).any():
        kept = slots >= 0
        k, v, slots = k[kept], None if v is None else v[kept], slots[kept]
    for cache, rows in ((k_cache, k), (v_cache, v)):
        if rows is None:
            continue
        cache.flatten(0, 1).index_copy_(0, slots, rows.to(cache.dtype))     # flatten is a view


@triton.jit
def _kernel(k_ptr, v_ptr, k_cache_ptr, v_cache_ptr, slot_ptr, k_row, k_head, v_row, v_head,
            K: tl.constexpr, DH: tl.constexpr, ROW: tl.constexpr, VALUES: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_ptr + token)
    if slot >= 0:
        value = tl.arange(0, ROW)                         # [K * Dh], padded to a power of two
        head, column, mask = value // DH, value % DH, value < K * DH
        at = slot * (K * DH) + value
        k = tl.load(k_ptr + token * k_row + head * k_head + column, mask)
        if VALUES:
            v = tl.load(v_ptr + token * v_row + head * v_head + column, mask)
            tl.store(v_cache_ptr + at, v.to(v_cache_ptr.dtype.element_ty), mask)
        tl.store(k_cache_ptr + at, k.to(k_cache_ptr.dtype.element_ty), mask)


def _tiling(row: int) -> dict:
    block = triton.next_power_of_2(row)
    return {"ROW": block, "num_warps": min(8, max(1, block // 256))}


def kv_write(k: Tensor, v: Tensor | None, k_cache: Tensor, v_cache: Tensor | None, slots: Tensor, *,
             backend: str | None = None) -> None:
    """Copy row n of k and v [N, K, Dh] to slot slots[n] of the caches [blocks, P, K, Dh], in place; with
    both v and v_cache None, keys alone.

    slots: int64 [N], block * P + offset, distinct; -1 skips the row. Values are converted to the
    cache's dtype. Raises ValueError if shapes disagree or a cache is not contiguous; a slot outside
    the cache is an error on the torch path only: on a GPU, looking would mean waiting.
    """
    if v is None and v_cache is None:
        return _write(k, k, k_cache, k_cache, slots, backend, values=False)
    if v is None or v_cache is None:
        raise ValueError("v and v_cache go together: pass both, or None for both if a cache has keys only.")
    _write(k, v, k_cache, v_cache, slots, backend, values=True)


def _write(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor, backend: str | None,
           values: bool) -> None:
    """As `kv_write`; without `values` v and v_cache are the keys' and are not touched."""
    if k.shape != v.shape or k.shape[1:] != k_cache.shape[2:] or k_cache.shape != v_cache.shape:
        raise ValueError(f"k is {tuple(k.shape)}, v {tuple(v.shape)}, caches {tuple(k_cache.shape)} and "
                         f"{tuple(v_cache.shape)}; pass [N, K, Dh] and [blocks, P, K, Dh] with equal "
                         "K and Dh.")
    if slots.shape != k.shape[:1] or slots.dtype != torch.int64:
        raise ValueError(f"slots is {slots.dtype} {tuple(slots.shape)}; pass one int64 for each "
                         f"of {len(k)} rows.")
    if not (k_cache.is_contiguous() and v_cache.is_contiguous()):
        raise ValueError(f"caches have strides {k_cache.stride()} and {v_cache.stride()}; both must be "
                         "contiguous.")
    if pick_backend(k, backend) == "torch":
        return kv_write_reference(k, v if values else None, k_cache, v_cache, slots)
    heads, size = k.shape[1:]
    if heads * size > _MAX_ROW:
        raise ValueError(f"a token's keys are {heads * size:,} values; the kernel holds at most "
                         f"{_MAX_ROW:,}. "
                         "Use backend='torch'.")
    k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (k, v))
    if values:
        _kv_write(k, v, k_cache, v_cache, slots.contiguous())
    else:
        _kv_write(k, None, k_cache, None, slots.contiguous())


@operator("kv_write", writes=("k_cache", "v_cache"))
def _kv_write(k: Tensor, v: Tensor | None, k_cache: Tensor, v_cache: Tensor | None, slots: Tensor) -> None:
    values, (heads, size) = v is not None, k.shape[1:]
    if not values:
        v, v_cache = k, k_cache
    if len(k):
        launch(_kernel, (len(k),), k, v, k_cache, v_cache, slots, *k.stride()[:2], *v.stride()[:2],
               K=heads, DH=size, VALUES=values, **_tiling(heads * size))


def cost(tokens: int, kv_heads: int, head_size: int, bytes_per_value: float = 2, tensors: int = 2) -> Cost:
    """No arithmetic: keys and values are read once and written once, and 8 bytes of slot a token. tensors: 1
    for keys alone."""
    return Cost(0.0, tokens * (2 * tensors * kv_heads * head_size * bytes_per_value + 8))


def compile_cases(arch: int) -> list[dict]:
    """What this file has to compile; see gpu/compile.py."""
    types = {"slot_ptr": "*i64"}
    types |= {name: "*bf16" for name in ("k_ptr", "v_ptr", "k_cache_ptr", "v_cache_ptr")}
    types |= {name: "i32:16" for name in ("k_row", "k_head", "v_row", "v_head")}
    cases = []
    for heads, size, values in ((3, 64, True), (8, 128, True), (1, 576, False)):
        tiling = _tiling(heads * size)
        cases.append(dict(name=f"bf16 K={heads} Dh={size}" + ("" if values else " keys alone"),
                          kernel=_kernel, types=types,
                          constexprs={"K": heads, "DH": size, "ROW": tiling["ROW"], "VALUES": values},
                          num_warps=tiling["num_warps"]))
    return cases
