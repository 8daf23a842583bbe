"""Sheet 1, first blocks: pointers, offsets, masks, and a grid in one and two dimensions. Notebook 08."""

import torch

from puzzles.puzzle import case, puzzle
from puzzles.tensors import BlockSize, Number, Size, f32
from puzzles.tiling import panel

_NOTEBOOK = "08_gpu_programming"


@puzzle(
    title="Add a constant",
    minutes=10,
    notebook=_NOTEBOOK,
    grid="1",
    outputs=dict(z=f32("BLOCK")),
    cases=[case(c=10.0, BLOCK=32), case(c=-2.5, BLOCK=1), case(c=0.125, BLOCK=128)],
    big=case(c=10.0, BLOCK=1024),
    budget=dict(x="BLOCK"),
    picture=(
        panel("x", 1, 1, sweep=[(0, 0)], labels=("", "BLOCK")),
        panel("z", 1, 1, own=[(0, 0)], labels=("", "BLOCK")),
    ),
    hints=(
        "A kernel is handed addresses, not arrays. x_ptr is the address of x[0]; x_ptr + 3 is the "
        "address of x[3].",
        "Make all offsets at once with tl.arange(0, BLOCK). Adding them to a pointer gives BLOCK "
        "addresses. tl.load turns addresses into values, and tl.store takes addresses and values.",
        "offsets = tl.arange(0, BLOCK); x = tl.load(x_ptr + offsets); then store x + c at z_ptr + offsets.",
    ),
)
def add_constant(x: f32("BLOCK"), c: Number, BLOCK: BlockSize):
    """z[i] = x[i] + c

    One program. x and z hold exactly BLOCK elements, so nothing is masked.
    """
    return dict(z=x + c)


@puzzle(
    title="Blocks and a tail mask",
    minutes=15,
    notebook=_NOTEBOOK,
    grid="cdiv(N, BLOCK)",
    outputs=dict(z=f32("N")),
    cases=[
        case(N=32, BLOCK=32, c=10.0),
        case(N=200, BLOCK=64, c=3.0),
        case(N=1, BLOCK=32, c=-1.0),
        case(N=201, BLOCK=16, c=0.5, grow=dict(N=1)),
    ],
    big=case(N=1 << 24, BLOCK=1024, c=10.0),
    budget=dict(x="N"),
    picture=(
        panel("x", 1, 4, sweep=[(0, 2)], ragged="c", labels=("", "N, in blocks of BLOCK")),
        panel("z", 1, 4, own=[(0, 2)], ragged="c", labels=("", "N")),
    ),
    hints=(
        "Program p owns the elements from p * BLOCK up to (p + 1) * BLOCK. Which of these exist?",
        "tl.program_id(0) is p. A mask is a block of booleans, such as offsets < N; tl.load and tl.store "
        "take it as mask=.",
        "offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK); mask = offsets < N; use mask=mask in "
        "the load and in the store.",
    ),
)
def add_blocks(x: f32("N"), N: Size, c: Number, BLOCK: BlockSize):
    """z[i] = x[i] + c for N elements, where N is anything.

    Program p on axis 0 owns elements p * BLOCK to (p + 1) * BLOCK - 1. The last program's block may reach
    past N: those lanes must be masked in the load and in the store.
    """
    return dict(z=x + c)


@puzzle(
    title="Outer sum",
    minutes=15,
    notebook=_NOTEBOOK,
    grid="1",
    outputs=dict(z=f32("N", "M")),
    cases=[
        case(N=4, M=8, BLOCK_N=4, BLOCK_M=8),
        case(N=13, M=30, BLOCK_N=16, BLOCK_M=32),
        case(N=1, M=7, BLOCK_N=2, BLOCK_M=8),
        case(N=16, M=1, BLOCK_N=16, BLOCK_M=4),
        case(N=17, M=31, BLOCK_N=32, BLOCK_M=64, grow=dict(N=1, M=2)),
    ],
    big=case(N=61, M=125, BLOCK_N=64, BLOCK_M=128),
    budget=dict(x="N", y="M"),
    picture=(
        panel("x", 1, 1, sweep=[(0, 0)], ragged="c", labels=("", "N")),
        panel("y", 1, 1, sweep=[(0, 0)], ragged="c", labels=("", "M")),
        panel("z", 1, 1, own=[(0, 0)], ragged="rc", labels=("N", "M")),
    ),
    hints=(
        "In NumPy this is x[:, None] + y[None, :]. Triton's blocks take the same two indices.",
        "z is stored row after row, so z[n, m] is at z_ptr + n * M + m. With n as a column and m as a "
        "row, that is a whole matrix of addresses.",
        "n = tl.arange(0, BLOCK_N); m = tl.arange(0, BLOCK_M); load x at n with mask n < N and y at m "
        "with mask m < M; store at z_ptr + n[:, None] * M + m[None, :] with mask (n[:, None] < N) & "
        "(m[None, :] < M).",
    ),
)
def outer_sum(x: f32("N"), y: f32("M"), N: Size, M: Size, BLOCK_N: BlockSize, BLOCK_M: BlockSize):
    """z[n, m] = x[n] + y[m]; z is contiguous, M elements a row.

    One program; N <= BLOCK_N and M <= BLOCK_M, and lanes past N or M must be masked.
    """
    return dict(z=x[:, None] + y[None, :])


@puzzle(
    title="Outer sum in a 2-D grid",
    minutes=20,
    notebook=_NOTEBOOK,
    grid=None,
    programs="cdiv(N, BLOCK_N) * cdiv(M, BLOCK_M)",
    outputs=dict(z=f32("N", "M")),
    cases=[
        case(N=8, M=16, BLOCK_N=8, BLOCK_M=16),
        case(N=10, M=45, BLOCK_N=4, BLOCK_M=16),
        case(N=1, M=33, BLOCK_N=4, BLOCK_M=8),
        case(N=31, M=1, BLOCK_N=8, BLOCK_M=4),
        case(N=33, M=47, BLOCK_N=16, BLOCK_M=8, grow=dict(N=1, M=2)),
    ],
    big=case(N=4096, M=4095, BLOCK_N=64, BLOCK_M=64),
    picture=(
        panel("x", 1, 3, sweep=[(0, 1)], ragged="c", labels=("", "N")),
        panel("y", 1, 4, sweep=[(0, 2)], ragged="c", labels=("", "M")),
        panel("z", 3, 4, own=[(1, 2)], ragged="rc", labels=("N", "M")),
    ),
    hints=(
        "A program is one tile of z. How many tiles are there along N, and how many along M?",
        "The grid is a tuple: (tiles along N, tiles along M). tl.program_id(0) counts along the first, "
        "tl.program_id(1) along the second.",
        "grid = lambda meta: (triton.cdiv(meta['N'], meta['BLOCK_N']), triton.cdiv(meta['M'], "
        "meta['BLOCK_M'])); in the kernel, n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N), and m "
        "likewise on axis 1.",
    ),
)
def outer_sum_2d(x: f32("N"), y: f32("M"), N: Size, M: Size, BLOCK_N: BlockSize, BLOCK_M: BlockSize):
    """z[n, m] = x[n] + y[m] for any N and M; z is contiguous.

    You choose the grid, as a function of the sizes. Let axis 0 count tiles of BLOCK_N rows and axis 1 tiles
    of BLOCK_M columns: program (i, j) owns rows i * BLOCK_N and on, columns j * BLOCK_M and on. Rows past N
    and columns past M are masked.
    """
    return dict(z=x[:, None] + y[None, :])


def _with_zeros(tensors, sizes, rng):
    """Some products are exactly zero: there the gradient of ReLU is zero by definition."""
    tensors["x"].view(-1)[::5] = 0.0
    return tensors


@puzzle(
    title="Fused multiply and ReLU",
    minutes=20,
    notebook=_NOTEBOOK,
    grid="cdiv(N, BLOCK_N), cdiv(M, BLOCK_M)",
    outputs=dict(z=f32("N", "M", strides=True)),
    cases=[
        case(N=8, M=8, BLOCK_N=8, BLOCK_M=8),
        case(N=10, M=37, BLOCK_N=4, BLOCK_M=16),
        case(N=9, M=20, BLOCK_N=8, BLOCK_M=16, layout=1),
        case(N=1, M=1, BLOCK_N=4, BLOCK_M=4),
        case(N=7, M=5, BLOCK_N=4, BLOCK_M=4, layout=2),
        case(N=12, M=39, BLOCK_N=16, BLOCK_M=8, grow=dict(N=1, M=2)),
    ],
    big=case(N=4096, M=4095, BLOCK_N=32, BLOCK_M=128),
    budget=dict(x="N * M"),
    picture=(
        panel("x", 3, 4, sweep=[(1, 2)], ragged="rc", labels=("N", "M")),
        panel("y", 1, 4, sweep=[(0, 2)], ragged="c", labels=("", "M")),
        panel("z", 3, 4, own=[(1, 2)], ragged="rc", labels=("N", "M")),
    ),
    hints=(
        "Fused means: x travels to the processor once, the product never travels at all, and z travels "
        "back once.",
        "x[n, m] is at x_ptr + n * stride_xn + m * stride_xm. Never assume that a stride is 1 or M. "
        "tl.maximum(a, 0.0) is ReLU.",
        "As in the outer sum, make n, m and the 2-D mask; load x with its strides, y at m with mask m < "
        "M; z = tl.maximum(x * y[None, :], 0.0); store with z's own strides.",
    ),
)
def mul_relu(x: f32("N", "M", strides=True), y: f32("M"), N: Size, M: Size, BLOCK_N: BlockSize,
             BLOCK_M: BlockSize):
    """z[n, m] = max(x[n, m] * y[m], 0)

    x and z come with strides, in elements: x[n, m] is at x_ptr + n * stride_xn + m * stride_xm. Rows may be
    padded or the matrix may be stored by columns; what lies between the rows is not yours. Program (i, j)
    owns rows i * BLOCK_N and on, and columns j * BLOCK_M and on; past N and M is masked.
    """
    return dict(z=torch.relu(x * y[None, :]))


@puzzle(
    title="Its backward",
    minutes=20,
    notebook=_NOTEBOOK,
    grid="cdiv(N, BLOCK_N), cdiv(M, BLOCK_M)",
    outputs=dict(dx=f32("N", "M")),
    prepare=_with_zeros,
    cases=[
        case(N=8, M=8, BLOCK_N=8, BLOCK_M=8),
        case(N=10, M=37, BLOCK_N=4, BLOCK_M=16),
        case(N=9, M=20, BLOCK_N=8, BLOCK_M=16, layout=1),
        case(N=5, M=13, BLOCK_N=4, BLOCK_M=4, layout=2),
        case(N=12, M=39, BLOCK_N=16, BLOCK_M=8, grow=dict(N=1, M=2)),
    ],
    big=case(N=4096, M=4095, BLOCK_N=32, BLOCK_M=128),
    budget=dict(x="N * M", dz="N * M"),
    picture=(
        panel("x", 3, 4, sweep=[(1, 2)], ragged="rc", labels=("N", "M")),
        panel("dz", 3, 4, sweep=[(1, 2)], ragged="rc"),
        panel("dx", 3, 4, own=[(1, 2)], ragged="rc", labels=("N", "M")),
    ),
    hints=(
        "The chain rule: dx = dz * (slope of ReLU at x * y) * (slope of x * y in x).",
        "ReLU's slope is 1 where its input is positive and 0 elsewhere, at zero too. The slope of x * y "
        "in x is y.",
        "dx = tl.where(x * y[None, :] > 0, dz * y[None, :], 0.0).",
    ),
)
def mul_relu_backward(
    x: f32("N", "M", strides=True),
    y: f32("M"),
    dz: f32("N", "M", strides=True),
    N: Size,
    M: Size,
    BLOCK_N: BlockSize,
    BLOCK_M: BlockSize,
):
    """dx[n, m] = dz[n, m] * y[m] where x[n, m] * y[m] > 0, else 0

    The gradient of a loss with respect to x, if dz is its gradient with respect to z = max(x * y, 0). At x *
    y = 0 the gradient is 0. x and dz come with strides; dx is contiguous. Program (i, j) owns rows i *
    BLOCK_N and on, and columns j * BLOCK_M and on; past N and M is masked.
    """
    return dict(dx=torch.where(x * y > 0, dz * y, 0.0))
