"""Many small matrix products at once: rows sorted by expert, each expert with a matrix of its own.

    x [N, D]     rows 0 1 2 │ 3 4 5 6 7 │   │ 8        offsets [E + 1] = 0 3 8 8 9
    expert           0      │     1     │ 2 │ 3        y[n] = x[n] @ weight[expert of n]ᵀ

How many rows an expert gets is known on the device alone, and differs at every step: to ask for it would be
to wait for the device. So the grid is made for the worst case, N / BLOCK_N tiles of rows and one broken tile
for each expert, and every program looks its tile up: it counts the tiles of the experts before it. Programs
beyond the last tile have nothing to do, and an expert without a row costs nothing.

    dx[n] = dy[n] @ weight[e]          the same kernel over the weight transposed
    dweight[e] = dyᵀ @ x, e's rows     a program for each tile of each matrix; zeros where there is no row

Gale et al. 2022 (MegaBlocks), arXiv 2211.15841. Notebook 17.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from aiinfra.kernels.lang import pick_backend, tl, triton
from aiinfra.kernels.operators import launch, operator
from aiinfra.kernels.tiles import padded
from aiinfra.perf.cost import Cost


def grouped_matmul_reference(x: torch.Tensor, weight: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Expert by expert, one plain product each. Raises ValueError if offsets do not cut up the rows of x."""
    ends = offsets.tolist()
    counts = [end - start for start, end in pairwise(ends)]
    if ends[0] != 0 or ends[-1] != len(x) or min(counts, default=0) < 0:
        raise ValueError(f"offsets go from {ends[0]} to {ends[-1]}: they must rise from 0 to the {len(x)} "
                         "rows of x.")
    # Parts cut once: a slice of the weight for each expert would fill a whole gradient for each.
    parts = zip(x.split(counts), weight.unbind())
    if not torch.is_grad_enabled():
        parts = [(rows, matrix) for rows, matrix in parts if len(rows)]
    products = [F.linear(rows, matrix) for rows, matrix in parts]
    return torch.cat(products) if products else x.new_zeros(0, weight.shape[1])


@triton.jit
def _find_tile(offset_ptr, experts, tile, BLOCK_E: tl.constexpr, BLOCK_N: tl.constexpr):
    """The expert of a tile, its first row, and the end of the expert's rows: all 0 past the last tile."""
    e = tl.arange(0, BLOCK_E)
    start = tl.load(offset_ptr + e, e < experts, other=0)
    end = tl.load(offset_ptr + e + 1, e < experts, other=0)
    tiles = tl.cdiv(end - start, BLOCK_N)
    before = tl.cumsum(tiles, 0) - tiles
    mine = (before <= tile) & (tile < before + tiles)
    row = tl.sum(tl.where(mine, start + (tile - before) * BLOCK_N, 0), 0)
    return tl.sum(tl.where(mine, e, 0), 0), row, tl.sum(tl.where(mine, end, 0), 0)


@triton.jit
def _rows_kernel(x_ptr, weight_ptr, offset_ptr, y_ptr, x_stride, expert_stride, out_stride, in_stride,
                 experts, outputs, inputs, BLOCK_E: tl.constexpr, BLOCK_N: tl.constexpr,
                 BLOCK_F: tl.constexpr, BLOCK_D: tl.constexpr):
    expert, first, end = _find_tile(offset_ptr, experts, tl.program_id(1), BLOCK_E, BLOCK_N)
    if first < end:
        row = first + tl.arange(0, BLOCK_N)
        out = tl.program_id(0) * BLOCK_F + tl.arange(0, BLOCK_F)
        x_row = x_ptr + row.to(tl.int64)[:, None] * x_stride
        matrix = weight_ptr + expert.to(tl.int64) * expert_stride + out.to(tl.int64)[None, :] * out_stride
        acc = tl.zeros([BLOCK_N, BLOCK_F], dtype=tl.float32)
        for start in range(0, inputs, BLOCK_D):
            d = start + tl.arange(0, BLOCK_D)
            x = tl.load(x_row + d[None, :], (row < end)[:, None] & (d < inputs)[None, :], other=0.0)
            w = tl.load(matrix + d.to(tl.int64)[:, None] * in_stride,
                        (d < inputs)[:, None] & (out < outputs)[None, :], other=0.0)
            acc = tl.dot(x, w, acc, input_precision="ieee")                        # not TF32
        y = y_ptr + row.to(tl.int64)[:, None] * outputs + out[None, :]
        tl.store(y, acc.to(y_ptr.dtype.element_ty), (row < end)[:, None] & (out < outputs)[None, :])


@triton.jit
def _weight_kernel(dy_ptr, x_ptr, offset_ptr, dweight_ptr, dy_stride, x_stride, outputs, inputs,
                   BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_D: tl.constexpr):
    expert = tl.program_id(2)
    out = tl.program_id(0) * BLOCK_F + tl.arange(0, BLOCK_F)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    end = tl.load(offset_ptr + expert + 1)
    acc = tl.zeros([BLOCK_F, BLOCK_D], dtype=tl.float32)
    for start in range(tl.load(offset_ptr + expert), end, BLOCK_N):
        row = start + tl.arange(0, BLOCK_N)
        far = row.to(tl.int64)[:, None]
        dy = tl.load(dy_ptr + far * dy_stride + out[None, :],
                     (row < end)[:, None] & (out < outputs)[None, :], other=0.0)
        x = tl.load(x_ptr + far * x_stride + d[None, :],
                    (row < end)[:, None] & (d < inputs)[None, :], other=0.0)
        acc = tl.dot(tl.trans(dy), x, acc, input_precision="ieee")
    at = (expert.to(tl.int64) * outputs + out[:, None]) * inputs + d[None, :]
    tl.store(dweight_ptr + at, acc.to(dweight_ptr.dtype.element_ty),
             (out < outputs)[:, None] & (d < inputs)[None, :])


def _tiling(rows: int, experts: int) -> dict:
    """Tiles about as high as an expert has rows: what a tile has beyond them is work for nothing."""
    each = padded(-(-rows // experts))
    return {"BLOCK_N": min(each, 64), "BLOCK_F": 64, "BLOCK_D": 32, "num_warps": 4}


@operator("grouped_matmul")
def _multiply(x: torch.Tensor, weight: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """x [N, D], weight [E, F, D] with any strides -> [N, F]."""
    (experts, outputs, inputs), rows = weight.shape, len(x)
    y = torch.empty(rows, outputs, dtype=x.dtype, device=x.device)
    tiling = _tiling(rows, experts)
    tiles = rows // tiling["BLOCK_N"] + min(experts, rows)          # one broken tile for each expert, at most
    if tiles:
        grid = (triton.cdiv(outputs, tiling["BLOCK_F"]), tiles)
        launch(_rows_kernel, grid, x, weight, offsets, y, x.stride(0), *weight.stride(), experts, outputs,
               inputs, BLOCK_E=padded(experts), **tiling)
    return y


@operator("grouped_matmul_weight_gradient")
def _weight_gradient(dy: torch.Tensor, x: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """dy [N, F], x [N, D] -> [E, F, D] in x's dtype."""
    experts, outputs, inputs = len(offsets) - 1, dy.shape[1], x.shape[1]
    dweight = torch.empty(experts, outputs, inputs, dtype=x.dtype, device=x.device)
    grid = (triton.cdiv(outputs, 64), triton.cdiv(inputs, 64), experts)
    launch(_weight_kernel, grid, dy, x, offsets, dweight, dy.stride(0), x.stride(0), outputs, inputs,
           BLOCK_N=32, BLOCK_F=64, BLOCK_D=64, num_warps=4)
    return dweight


class _GroupedMatmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, offsets):
        ctx.save_for_backward(x, weight, offsets)
        return _multiply(x, weight, offsets)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        (x, weight, offsets), dy = ctx.saved_tensors, dy.contiguous()
        dx = dweight = None
        if ctx.needs_input_grad[0]:
            dx = _multiply(dy, weight.transpose(1, 2), offsets)
        if ctx.needs_input_grad[1]:
            dweight = _weight_gradient(dy, x, offsets)
        return dx, dweight, None


def grouped_matmul(x: torch.Tensor, weight: torch.Tensor, offsets: torch.Tensor, *,
                   backend: str | None = None) -> torch.Tensor:
    """y [N, F]: rows offsets[e]:offsets[e + 1] of x [N, D] times weight[e]ᵀ, weight [E, F, D].

    offsets: int32 [E + 1], rising from 0 to N, on x's device. Accumulated in float32, in x's dtype;
    differentiable. Raises ValueError where shapes disagree. On a GPU what offsets say is not looked at: that
    would be to wait for it.
    """
    if x.dim() != 2 or weight.dim() != 3 or weight.shape[2] != x.shape[1] \
            or offsets.shape != (len(weight) + 1,):
        raise ValueError(f"x {tuple(x.shape)}, weight {tuple(weight.shape)} and offsets "
                         f"{tuple(offsets.shape)} must be [N, D], [E, F, D] and [E + 1].")
    if pick_backend(x, backend) == "torch":
        return grouped_matmul_reference(x, weight, offsets)
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):      # as F.linear does
        narrow = torch.get_autocast_dtype(kind)
        x, weight = x.to(narrow), weight.to(narrow)
    x = x if x.stride(-1) == 1 else x.contiguous()
    return _GroupedMatmul.apply(x, weight, offsets)


def cost(rows: int, inputs: int, outputs: int, experts: float, bytes_per_value: float = 2) -> Cost:
    """Two FLOPs a row and weight of its expert; the matrices of `experts` that have rows are read once."""
    edges = rows * (inputs + outputs) + experts * inputs * outputs
    return Cost(2.0 * rows * inputs * outputs, edges * bytes_per_value)


def compile_cases(arch: int) -> list[dict]:
    """128 experts: few rows and many, forward, over the weight transposed, and its gradient. See
    gpu/compile.py."""
    rows = {"x_ptr": "*bf16", "weight_ptr": "*bf16", "offset_ptr": "*i32", "y_ptr": "*bf16",
            "x_stride": "i32:16", "expert_stride": "i32:16", "out_stride": "i32:16", "experts": "i32:16",
            "outputs": "i32:16", "inputs": "i32:16"}
    gradient = {"dy_ptr": "*bf16", "x_ptr": "*bf16", "offset_ptr": "*i32", "dweight_ptr": "*bf16",
                "dy_stride": "i32:16", "x_stride": "i32:16", "outputs": "i32:16", "inputs": "i32:16"}
    cases = []
    for name, count in (("few rows", 128), ("many rows", 1 << 16)):
        for way, inner in (("", "in_stride"), (" transposed", "out_stride")):
            constexprs = {"BLOCK_E": 128, inner: 1, **_tiling(count, 128)}
            types = {key: kind for key, kind in rows.items() if key != inner}
            types |= {key: "i32:16" for key in ("in_stride", "out_stride") if key != inner}
            cases.append(dict(name=f"{name}{way} bf16", kernel=_rows_kernel, types=types,
                              num_warps=constexprs.pop("num_warps"), constexprs=constexprs))
    cases.append(dict(name="weight gradient bf16", kernel=_weight_kernel, types=gradient, num_warps=4,
                      constexprs={"BLOCK_N": 32, "BLOCK_F": 64, "BLOCK_D": 64}))
    return cases
