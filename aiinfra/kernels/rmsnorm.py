"""RMSNorm, with the residual addition before it in the same pass over memory.

    x ──┐
        ├─(+)──┬────────────────────────► total     the stream that the next layer adds to
    res ┘      └─► ÷ sqrt(mean(total²) + eps) ─► × weight ─► y

    as two operations  read x, res, write total; read total, write y    5 passes over [N, D]
    fused              read x, res, write total, y                      4 passes

Two FLOPs a byte: the kernel is bound by memory, so its only goal is to touch each value once.
A row is a program's whole world: no row can change another, and `weight`'s gradient, which does
sum over rows, is added per program and then over programs in a fixed order, without atomics.
Arithmetic is float32 (a bfloat16 running sum of ones stops at 256) and rounds once, at the end.
Zhang and Sennrich 2019, arXiv 1910.07467. Notebook 10.
"""

import torch
from torch.autograd.function import once_differentiable

from aiinfra.kernels.lang import pick_backend, tl, triton
from aiinfra.kernels.operators import launch, operator
from aiinfra.perf.cost import Cost

_TILE_VALUES = 4096          # one tile: several short rows, or one long row
_MAX_WIDTH = 16384           # one row in one program's registers; backward spills above 8,192
_BACKWARD_PROGRAMS = 256     # each keeps one partial weight gradient of D float32 values


def rms_norm_reference(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6,
                       residual: torch.Tensor | None = None):
    """What `rms_norm` computes, in plain PyTorch, which also works in float32 at least and rounds once."""
    if residual is not None:
        x = x + residual                          # rounded to x.dtype, as it is stored
    y = torch.nn.functional.rms_norm(x, weight.shape, weight, eps)
    return y if residual is None else (y, x)


# How many rows there are changes from step to step: it must not be compiled in.
@triton.jit(do_not_specialize=["rows"])
def _forward_kernel(x_ptr, residual_ptr, weight_ptr, y_ptr, total_ptr, rstd_ptr,
                    x_stride, residual_stride, rows, width, eps,
                    HAS_RESIDUAL: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr):
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)   # N * D can pass 2^31
    col = tl.arange(0, BLOCK_D)
    mask = (row < rows)[:, None] & (col < width)[None, :]
    out = row[:, None] * width + col[None, :]
    weight = tl.load(weight_ptr + col, col < width, other=0.0).to(tl.float32)          # on its way meanwhile
    total = tl.load(x_ptr + row[:, None] * x_stride + col[None, :], mask, other=0.0)  # [ROWS, D]
    if HAS_RESIDUAL:
        add = tl.load(residual_ptr + row[:, None] * residual_stride + col[None, :], mask, other=0.0)
        total = (total.to(tl.float32) + add.to(tl.float32)).to(total_ptr.dtype.element_ty)
        tl.store(total_ptr + out, total, mask)
    wide = total.to(tl.float32)               # normalise what was stored: fused = add, then norm
    rstd = 1.0 / tl.sqrt(tl.sum(wide * wide, 1) / width + eps)                        # [ROWS]
    y = wide * rstd[:, None] * weight[None, :]
    tl.store(y_ptr + out, y.to(y_ptr.dtype.element_ty), mask)
    tl.store(rstd_ptr + row, rstd, row < rows)


@triton.jit(do_not_specialize=["rows"])
def _backward_kernel(dy_ptr, dtotal_ptr, total_ptr, weight_ptr, rstd_ptr, dx_ptr, dweight_ptr,
                     total_stride, rows, width,
                     HAS_RESIDUAL: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr):
    program, programs = tl.program_id(0), tl.num_programs(0)
    col = tl.arange(0, BLOCK_D)
    weight = tl.load(weight_ptr + col, col < width, other=0.0).to(tl.float32)
    dweight = tl.zeros([BLOCK_D], dtype=tl.float32)
    for tile in range(program, tl.cdiv(rows, ROWS), programs):
        row = (tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
        mask = (row < rows)[:, None] & (col < width)[None, :]
        at = row[:, None] * width + col[None, :]
        total = tl.load(total_ptr + row[:, None] * total_stride + col[None, :], mask, other=0.0)
        rstd = tl.load(rstd_ptr + row, row < rows, other=0.0)[:, None]
        dy = tl.load(dy_ptr + at, mask, other=0.0).to(tl.float32)
        unit = total.to(tl.float32) * rstd                       # the row before its weight
        grad = dy * weight[None, :]
        # The scale depends on every value of the row: take out the part of grad along it.
        dx = rstd * (grad - unit * (tl.sum(grad * unit, 1) / width)[:, None])
        if HAS_RESIDUAL:
            dx += tl.load(dtotal_ptr + at, mask, other=0.0).to(tl.float32)
        tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask)
        dweight += tl.sum(dy * unit, 0)
    tl.store(dweight_ptr + program * width + col, dweight, col < width)


def _tiling(width: int) -> dict:
    """Rows in a tile, its width, and warps so that a thread holds at most 32 values of it."""
    block = triton.next_power_of_2(width)
    rows = max(1, _TILE_VALUES // block)
    return {"ROWS": rows, "BLOCK_D": block, "num_warps": min(16, max(4, rows * block // 1024))}


def _rows(x: torch.Tensor) -> torch.Tensor:
    """`x` as [N, D] with adjacent values in a row; a view where the strides allow one."""
    x = x.reshape(-1, x.shape[-1])
    return x if x.stride(-1) == 1 else x.contiguous()


@operator("rmsnorm_forward")
def _forward(x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor,
             eps: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """y [N, D], the sum (empty without a residual) and 1 / rms [N], of x and residual [N, D]."""
    (n, width), fused = x.shape, residual is not None
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    total = torch.empty(x.shape if fused else (0, width), dtype=x.dtype, device=x.device)
    rstd = torch.empty(n, dtype=torch.float32, device=x.device)
    add, tiling = residual if fused else x, _tiling(width)
    launch(_forward_kernel, (triton.cdiv(n, tiling["ROWS"]),), x, add, weight, y, total if fused else y, rstd,
           x.stride(0), add.stride(0), n, width, eps, HAS_RESIDUAL=fused, **tiling)
    return y, total, rstd


@operator("rmsnorm_backward")
def _backward(dy: torch.Tensor, dtotal: torch.Tensor | None, total: torch.Tensor, weight: torch.Tensor,
              rstd: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """dx [N, D] and, for each program, its part of the weight's gradient [programs, D]."""
    (n, width), fused = total.shape, dtotal is not None
    tiling = _tiling(width)
    programs = max(1, min(_BACKWARD_PROGRAMS, triton.cdiv(n, tiling["ROWS"])))
    dx = torch.empty(dy.shape, dtype=dy.dtype, device=dy.device)
    partial = torch.empty(programs, width, dtype=torch.float32, device=dy.device)
    launch(_backward_kernel, (programs,), dy, dtotal if fused else dy, total, weight, rstd, dx, partial,
           total.stride(0), n, width, HAS_RESIDUAL=fused, **tiling)
    return dx, partial


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, residual, weight, eps):
        flat, weight = _rows(x), weight.contiguous()
        y, total, rstd = _forward(flat, None if residual is None else _rows(residual), weight, eps)
        ctx.fused = residual is not None
        ctx.save_for_backward(total if ctx.fused else flat, weight, rstd)
        return (y.view(x.shape), total.view(x.shape)) if ctx.fused else y.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, dtotal=None):
        total, weight, rstd = ctx.saved_tensors
        dtotal = _rows(dtotal.contiguous()) if ctx.fused else None
        dx, partial = _backward(_rows(dy.contiguous()), dtotal, total, weight, rstd)
        dx = dx.view(dy.shape)
        return dx, dx if ctx.fused else None, partial.sum(0).to(weight.dtype), None


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6,
             residual: torch.Tensor | None = None, *, backend: str | None = None):
    """`x [..., D] / sqrt(mean(x²) + eps) * weight [D]`, differentiable in x, weight and residual.

    Without `residual` returns y; with one (shape and dtype of x) returns `(y, x + residual)`, y
    being the norm of the sum. y has x's dtype; arithmetic is float32. Raises ValueError if shapes
    disagree or D exceeds 16,384 on the Triton path.
    """
    width = x.shape[-1]
    if weight.shape != (width,):
        raise ValueError(f"weight has shape {tuple(weight.shape)}; x's rows need ({width},).")
    if residual is not None and (residual.shape != x.shape or residual.dtype != x.dtype):
        raise ValueError(f"residual is {residual.dtype} {tuple(residual.shape)}; x is {x.dtype} "
                         f"{tuple(x.shape)}. They are added value by value and must agree.")
    if pick_backend(x, backend) == "torch":
        return rms_norm_reference(x, weight, eps, residual)
    if width > _MAX_WIDTH:
        raise ValueError(f"rows have {width:,} values; the kernel holds at most {_MAX_WIDTH:,} in "
                         "registers. Use backend='torch'.")
    return _RMSNorm.apply(x, residual, weight, eps)


def cost(tokens: int, width: int, bytes_per_value: float = 2, residual: bool = True) -> Cost:
    """Forward: square, sum, two products (and the addition) a value; each tensor touched once."""
    values, passes = tokens * width, 4 if residual else 2
    return Cost((5 if residual else 4) * values, (passes * values + width) * bytes_per_value)


def compile_cases(arch: int) -> list[dict]:
    """The kernels at the widths of SmolLM2 (576) and of Llama 8B and 70B; see gpu/compile.py."""
    types = {name: "*bf16" for name in ("x_ptr", "residual_ptr", "weight_ptr", "y_ptr", "total_ptr",
                                        "dy_ptr", "dtotal_ptr", "dx_ptr")}
    types |= {"rstd_ptr": "*fp32", "dweight_ptr": "*fp32", "eps": "fp32", "width": "i32:16",
              "x_stride": "i32:16", "residual_stride": "i32:16", "total_stride": "i32:16"}
    cases = []
    for width in (576, 4096, 8192):
        tiling = _tiling(width)
        warps = tiling.pop("num_warps")
        cases += [dict(name=f"{way} bf16 D={width}", kernel=kernel, types=types, num_warps=warps,
                       constexprs=dict(HAS_RESIDUAL=True, **tiling))
                  for way, kernel in (("forward", _forward_kernel), ("backward", _backward_kernel))]
    return cases
