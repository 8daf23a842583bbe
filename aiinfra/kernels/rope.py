"""Rotary position embedding: turn each pair of values by an angle that grows with the position.

    pair i of a head at position p is (x[i], x[i + Dh/2]); its angle is p · base^(-2i / Dh)

        x[i]         ──►  x[i] · cos − x[i + Dh/2] · sin         "rotate half": the two values of a
        x[i + Dh/2]  ──►  x[i + Dh/2] · cos + x[i] · sin          pair lie Dh/2 apart, as in Llama

Turning q by its position and k by its own leaves q·k a function of their distance only. A rotation
keeps lengths, and its transpose turns back: so the gradient is the same kernel with sin negated,
and nothing but the angles is kept for it.

The kernel: one program a token turns all its query and key heads, and reads the angles once for
them. Arithmetic is float32 and rounds once. Su et al. 2021, arXiv 2104.09864. Notebook 03.
"""

import torch
from torch.autograd.function import once_differentiable

from aiinfra.kernels.lang import pick_backend, tl, triton
from aiinfra.kernels.operators import launch, operator
from aiinfra.perf.cost import Cost


def rope_tables(length: int, head_size: int, base: float = 10000.0,
                device: torch.device | str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """(cos, sin) of every position and pair, each float32 [length, head_size / 2]."""
    # float64: float32 angles near position 100,000 are off by up to 0.004 radians
    pairs = torch.arange(0, head_size, 2, dtype=torch.float64, device=device)
    positions = torch.arange(length, dtype=torch.float64, device=device)
    angles = torch.outer(positions, base ** (-pairs / head_size))                 # [S, Dh/2]
    return angles.cos().float(), angles.sin().float()


def rope_reference(x: torch.Tensor, positions: torch.Tensor, cos: torch.Tensor,
                   sin: torch.Tensor) -> torch.Tensor:
    """`x` [N, H, Dh], each token turned by the angles of its position; float64 stays float64."""
    wide = torch.promote_types(x.dtype, torch.float32)
    c, s = cos[positions].to(wide)[:, None], sin[positions].to(wide)[:, None]      # [N, 1, Dh/2]
    first, second = x.to(wide).chunk(2, dim=-1)                                    # [N, H, Dh/2]
    return torch.cat((first * c - second * s, second * c + first * s), dim=-1).to(x.dtype)


@triton.jit
def turn_heads(x_ptr, out_ptr, head_stride, heads, c, s, half, BLOCK_H: tl.constexpr, HALF: tl.constexpr):
    """Turn one token's heads by its angles c and s [1, HALF], and write them side by side."""
    head, pair = tl.arange(0, BLOCK_H), tl.arange(0, HALF)
    mask = (head < heads)[:, None] & (pair < half)[None, :]
    at = head[:, None] * head_stride + pair[None, :]
    first = tl.load(x_ptr + at, mask, other=0.0).to(tl.float32)                    # [H, Dh/2]
    second = tl.load(x_ptr + at + half, mask, other=0.0).to(tl.float32)
    out = head[:, None] * (2 * half) + pair[None, :]
    dtype: tl.constexpr = out_ptr.dtype.element_ty
    tl.store(out_ptr + out, (first * c - second * s).to(dtype), mask)
    tl.store(out_ptr + out + half, (second * c + first * s).to(dtype), mask)


@triton.jit
def _rope_kernel(q_ptr, k_ptr, positions_ptr, cos_ptr, sin_ptr, q_out_ptr, k_out_ptr,
                 q_stride, q_head_stride, k_stride, k_head_stride, table_stride,
                 query_heads, kv_heads, half, SIGN: tl.constexpr,
                 BLOCK_H: tl.constexpr, BLOCK_K: tl.constexpr, HALF: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)                     # N * H * Dh can pass 2^31
    angle = tl.load(positions_ptr + token).to(tl.int64) * table_stride + tl.arange(0, HALF)
    live = tl.arange(0, HALF) < half
    c = tl.load(cos_ptr + angle, live, other=0.0).to(tl.float32)[None, :]
    s = tl.load(sin_ptr + angle, live, other=0.0).to(tl.float32)[None, :] * SIGN
    turn_heads(q_ptr + token * q_stride, q_out_ptr + token * query_heads * half * 2, q_head_stride,
               query_heads, c, s, half, BLOCK_H, HALF)
    turn_heads(k_ptr + token * k_stride, k_out_ptr + token * kv_heads * half * 2, k_head_stride,
               kv_heads, c, s, half, BLOCK_K, HALF)


def head_tiles(heads: int, kv_heads: int, size: int) -> dict:
    """Tiles and warps of a launch: all heads of one token in one tile, padded to powers of two."""
    block_h, block_k, half = map(triton.next_power_of_2, (heads, kv_heads, size // 2))
    warps = 4 if block_h * half <= 4096 else 8
    return {"BLOCK_H": block_h, "BLOCK_K": block_k, "HALF": half, "num_warps": warps}


@operator("rope")
def _rope(q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor,
          sign: int) -> tuple[torch.Tensor, torch.Tensor]:
    """q [N, H, Dh] and k [N, K, Dh], turned forward or, with sign -1, back."""
    (n, heads, size), kv_heads = q.shape, k.shape[1]
    out = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k)]
    launch(_rope_kernel, (n,), q, k, positions, cos, sin, *out, *q.stride()[:2], *k.stride()[:2],
           cos.stride(0), heads, kv_heads, size // 2, SIGN=sign, **head_tiles(heads, kv_heads, size))
    return out[0], out[1]


def _turn(q, k, positions, cos, sin, sign: int) -> tuple[torch.Tensor, torch.Tensor]:
    q, k = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k))
    return _rope(q, k, positions, cos, sin, sign)


class _Rope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, positions, cos, sin):
        ctx.save_for_backward(positions, cos, sin)
        return _turn(q, k, positions, cos, sin, sign=1)

    @staticmethod
    @once_differentiable
    def backward(ctx, dq, dk):
        return *_turn(dq, dk, *ctx.saved_tensors, sign=-1), None, None, None


def rope(q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor, cos: torch.Tensor,
         sin: torch.Tensor, *, backend: str | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Turned copies of q [N, H, Dh] and k [N, K, Dh], differentiable in both.

    positions [N] are integers; cos and sin [S, Dh/2] come from `rope_tables` or a scaled variant,
    and 0 <= positions < S is the caller's promise (a GPU kernel that checked it would have to stop
    the queue). Raises ValueError where shapes disagree.
    """
    n, size = q.shape[0], q.shape[-1]
    if k.shape[::2] != (n, size) or positions.shape != (n,):
        raise ValueError(f"q {tuple(q.shape)}, k {tuple(k.shape)} and positions {tuple(positions.shape)} "
                         "must be [N, H, Dh], [N, K, Dh] and [N].")
    if size % 2 or cos.shape[-1] != size // 2 or cos.shape != sin.shape:
        raise ValueError(f"cos {tuple(cos.shape)} and sin {tuple(sin.shape)} must both be [S, Dh/2] "
                         f"with an even head size; here Dh={size}.")
    if pick_backend(q, backend) == "torch":
        return (rope_reference(q, positions, cos, sin), rope_reference(k, positions, cos, sin))
    if cos.stride() != sin.stride() or cos.stride(-1) != 1:       # a view of wider tables is fine
        cos, sin = cos.contiguous(), sin.contiguous()
    return _Rope.apply(q, k, positions.contiguous(), cos, sin)


def cost(tokens: int, query_heads: int, kv_heads: int, head_size: int,
         bytes_per_value: float = 2) -> Cost:
    """Three FLOPs a value; q and k read and written once, float32 angles read once a token."""
    values = tokens * (query_heads + kv_heads) * head_size
    return Cost(3 * values, 2 * values * bytes_per_value + tokens * head_size * 4)


def compile_cases(arch: int) -> list[dict]:
    """The head counts of SmolLM2 (9/3), Llama 8B (32/8) and 70B (64/8); see gpu/compile.py."""
    types = {"q_ptr": "*bf16", "k_ptr": "*bf16", "positions_ptr": "*i64", "cos_ptr": "*fp32",
             "sin_ptr": "*fp32", "q_out_ptr": "*bf16", "k_out_ptr": "*bf16"}
    types |= {name: "i32:16" for name in ("q_stride", "q_head_stride", "k_stride", "k_head_stride",
                                          "table_stride", "half")}
    cases = []
    for heads, kv_heads, size in ((9, 3, 64), (32, 8, 128), (64, 8, 128)):
        tiles = head_tiles(heads, kv_heads, size)
        warps = tiles.pop("num_warps")
        cases.append(dict(name=f"rope bf16 H={heads} K={kv_heads} Dh={size}", kernel=_rope_kernel,
                          types=types, constexprs={"SIGN": 1, **tiles}, num_warps=warps))
    return cases
