"""SwiGLU: one half of a tensor opens and closes the other half.

    x [..., 2F] = [ gate | up ]        out [..., F] = silu(gate) · up,   silu(g) = g · sigmoid(g)

One matmul makes gate and up side by side; this op reads both and writes half as much. Unfused, the
activation is written to memory and read back: 5 passes over [N, F] in place of 3. The backward
recomputes the sigmoid from gate, so it keeps nothing that the matmul had not kept already:

    d gate = dout · up · σ(gate) · (1 + gate · (1 − σ(gate)))        d up = dout · silu(gate)

Every value stands alone, so rows cannot touch each other. Arithmetic is float32 and rounds once.
Shazeer 2020, arXiv 2002.05202. Notebooks 03 and 10.
"""

import torch
from torch.autograd.function import once_differentiable

from aiinfra.kernels.lang import pick_backend, tl, triton
from aiinfra.kernels.operators import launch, operator
from aiinfra.perf.cost import Cost

_BLOCK_F = 1024


def swiglu_reference(x: torch.Tensor) -> torch.Tensor:
    """silu(first half) * second half of the last dimension; float64 stays float64."""
    features = x.shape[-1] // 2
    gate, up = (x.float() if x.dtype.itemsize < 4 else x).split([features, features], dim=-1)
    return (torch.nn.functional.silu(gate) * up).to(x.dtype)


@triton.jit
def _forward_kernel(x_ptr, out_ptr, x_stride, features, BLOCK_F: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)                           # N * F can pass 2^31
    col = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    gate = tl.load(x_ptr + row * x_stride + col, col < features, other=0.0).to(tl.float32)
    up = tl.load(x_ptr + row * x_stride + features + col, col < features, other=0.0).to(tl.float32)
    out = gate * tl.sigmoid(gate) * up
    tl.store(out_ptr + row * features + col, out.to(out_ptr.dtype.element_ty), col < features)


@triton.jit
def _backward_kernel(dout_ptr, x_ptr, dx_ptr, x_stride, features, BLOCK_F: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    col = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    live = col < features
    gate = tl.load(x_ptr + row * x_stride + col, live, other=0.0).to(tl.float32)
    up = tl.load(x_ptr + row * x_stride + features + col, live, other=0.0).to(tl.float32)
    dout = tl.load(dout_ptr + row * features + col, live, other=0.0).to(tl.float32)
    open_ = tl.sigmoid(gate)
    dgate = dout * up * open_ * (1.0 + gate * (1.0 - open_))
    dtype: tl.constexpr = dx_ptr.dtype.element_ty
    tl.store(dx_ptr + row * features * 2 + col, dgate.to(dtype), live)
    tl.store(dx_ptr + row * features * 2 + features + col, (dout * gate * open_).to(dtype), live)


@operator("swiglu_forward")
def _forward(x: torch.Tensor) -> torch.Tensor:
    """x [N, 2F] -> [N, F]."""
    n, features = x.shape[0], x.shape[1] // 2
    out = torch.empty(n, features, dtype=x.dtype, device=x.device)
    launch(_forward_kernel, (n, triton.cdiv(features, _BLOCK_F)), x, out, x.stride(0), features,
           BLOCK_F=_BLOCK_F)
    return out


@operator("swiglu_backward")
def _backward(dout: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """dout [N, F], x [N, 2F] -> dx [N, 2F]."""
    n, features = dout.shape
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    launch(_backward_kernel, (n, triton.cdiv(features, _BLOCK_F)), dout, x, dx, x.stride(0), features,
           BLOCK_F=_BLOCK_F)
    return dx


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        flat = x.reshape(-1, x.shape[-1])
        flat = flat if flat.stride(-1) == 1 else flat.contiguous()
        ctx.save_for_backward(flat)
        ctx.shape = x.shape
        return _forward(flat).view(*x.shape[:-1], x.shape[-1] // 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        (flat,) = ctx.saved_tensors
        dout = dout.contiguous().view(len(flat), flat.shape[1] // 2)
        return _backward(dout, flat).view(ctx.shape)


def swiglu(x: torch.Tensor, *, backend: str | None = None) -> torch.Tensor:
    """silu(gate) * up for x [..., 2F] = [gate | up]; returns [..., F] in x's dtype, differentiable.

    Raises ValueError if the last dimension is odd.
    """
    if x.shape[-1] % 2:
        raise ValueError(f"the last dimension is {x.shape[-1]}; it must be even: gate, then up.")
    return swiglu_reference(x) if pick_backend(x, backend) == "torch" else _SwiGLU.apply(x)


def cost(tokens: int, features: int, bytes_per_value: float = 2) -> Cost:
    """Forward: two values read and one written for each of tokens * features outputs.

    A sigmoid counts as four FLOPs (negate, exp, add, divide).
    """
    return Cost(6 * tokens * features, 3 * tokens * features * bytes_per_value)


def compile_cases(arch: int) -> list[dict]:
    """Both kernels; their size is fixed. See gpu/compile.py."""
    types = {"x_ptr": "*bf16", "out_ptr": "*bf16", "dout_ptr": "*bf16", "dx_ptr": "*bf16",
             "x_stride": "i32:16", "features": "i32:16"}
    return [dict(name=f"{way} bf16", kernel=kernel, types=types, constexprs={"BLOCK_F": _BLOCK_F})
            for way, kernel in (("forward", _forward_kernel), ("backward", _backward_kernel))]
