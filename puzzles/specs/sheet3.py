"""Sheet 3, matrices: tiles that are read once and used many times. Notebooks 08 and 16."""

import torch

from puzzles.puzzle import Expected, case, puzzle
from puzzles.tensors import BlockSize, Size, f16, f32, i8, u8
from puzzles.tiling import panel

_AB = (
    panel("a", 3, 3, sweep=[(1, 0), (1, 1), (1, 2)], ragged="rc", labels=("M", "K")),
    panel("b", 3, 4, sweep=[(0, 2), (1, 2), (2, 2)], ragged="rc", labels=("K", "N")),
)
_TILES = "cdiv(M, BLOCK_M), cdiv(N, BLOCK_N)"


def _product(a: torch.Tensor, b: torch.Tensor, **more) -> Expected:
    return Expected(a @ b, terms=a.shape[1], size=lambda: a.abs() @ b.abs(), **more)


@puzzle(
    title="Matrix multiplication",
    minutes=45,
    notebook="08_gpu_programming",
    grid=_TILES,
    outputs=dict(c=f32("M", "N")),
    cases=[
        case(M=16, N=16, K=16, BLOCK_M=16, BLOCK_N=16, BLOCK_K=16),
        case(M=33, N=20, K=50, BLOCK_M=16, BLOCK_N=16, BLOCK_K=16),
        case(M=1, N=17, K=5, BLOCK_M=16, BLOCK_N=16, BLOCK_K=16),
        case(M=20, N=37, K=33, BLOCK_M=16, BLOCK_N=32, BLOCK_K=16, layout=1),
        case(M=19, N=18, K=35, BLOCK_M=16, BLOCK_N=16, BLOCK_K=32, layout=2),
        case(M=34, N=38, K=64, BLOCK_M=32, BLOCK_N=16, BLOCK_K=16, grow=dict(M=1, N=2, K=1)),
    ],
    big=case(M=2048, N=2040, K=2047, BLOCK_M=32, BLOCK_N=32, BLOCK_K=32),
    flops="2 * M * N * K",
    # Whole blocks: rows that wrap around, as in Triton's own tutorial, do in place of a mask.
    budget=dict(
        a="BLOCK_M * cdiv(M, BLOCK_M) * K * cdiv(N, BLOCK_N)",
        b="BLOCK_N * cdiv(N, BLOCK_N) * K * cdiv(M, BLOCK_M)",
    ),
    picture=(*_AB, panel("c", 3, 4, own=[(1, 2)], ragged="rc", labels=("M", "N"))),
    hints=(
        "A tile of c needs a band of rows of a and a band of columns of b. Walk along K with one tile of "
        "each, and add up their products.",
        "tl.dot(x, y, acc) multiplies two tiles and adds to acc. For float32 it drops 13 bits (TF32) "
        "unless input_precision='ieee'. Past M, N and K the tiles must be zero, so that they add "
        "nothing.",
        "for start in range(0, K, BLOCK_K): k = start + tl.arange(0, BLOCK_K); x = tl.load(a_ptr + m[:, "
        "None] * stride_am + k[None, :] * stride_ak, mask=(m[:, None] < M) & (k[None, :] < K), "
        "other=0.0); y likewise from b; acc = tl.dot(x, y, acc, input_precision='ieee').",
    ),
)
def matmul(
    a: f32("M", "K", strides=True),
    b: f32("K", "N", strides=True),
    M: Size,
    N: Size,
    K: Size,
    BLOCK_M: BlockSize,
    BLOCK_N: BlockSize,
    BLOCK_K: BlockSize,
):
    """c[m, n] = sum over k of a[m, k] * b[k, n]

    Program (i, j) owns the tile of c that begins at row i * BLOCK_M, column j * BLOCK_N. a and b come with
    strides in elements (either may be stored by columns); c is contiguous. Past M, N and K is masked. Full
    float32: on a GPU, tl.dot rounds float32 to TF32 by default, and the judge does so, too.
    """
    return dict(c=_product(a, b))


def _grouped_owner(M: int, N: int, BLOCK_M: int, BLOCK_N: int, GROUP: int) -> torch.Tensor:
    """[M, N] which program writes each element: groups of GROUP tile rows, column by column."""
    rows, columns = -(-M // BLOCK_M), -(-N // BLOCK_N)
    order = [
        (i, j)
        for first in range(0, rows, GROUP)
        for j in range(columns)
        for i in range(first, min(first + GROUP, rows))
    ]
    owner = torch.zeros(rows, columns, dtype=torch.int64)
    for program, (i, j) in enumerate(order):
        owner[i, j] = program
    return owner.repeat_interleave(BLOCK_M, 0).repeat_interleave(BLOCK_N, 1)[:M, :N]


@puzzle(
    title="Matrix multiplication in grouped order",
    minutes=40,
    notebook="08_gpu_programming",
    grid="cdiv(M, BLOCK_M) * cdiv(N, BLOCK_N)",
    outputs=dict(c=f32("M", "N")),
    cases=[
        case(M=32, N=32, K=16, GROUP=2, BLOCK_M=16, BLOCK_N=16, BLOCK_K=16),
        case(M=80, N=33, K=20, GROUP=2, BLOCK_M=16, BLOCK_N=16, BLOCK_K=16),
        case(M=1, N=50, K=7, GROUP=4, BLOCK_M=16, BLOCK_N=16, BLOCK_K=16),
        case(M=70, N=20, K=33, GROUP=3, BLOCK_M=16, BLOCK_N=16, BLOCK_K=32),
        case(M=81, N=51, K=48, GROUP=2, BLOCK_M=32, BLOCK_N=16, BLOCK_K=16, grow=dict(M=1, N=2, K=1)),
        case(M=81, N=51, K=48, GROUP=3, BLOCK_M=16, BLOCK_N=32, BLOCK_K=16, grow=dict(M=1, N=2, K=1)),
    ],
    big=case(M=4096, N=4095, K=1024, GROUP=8, BLOCK_M=64, BLOCK_N=64, BLOCK_K=32),
    flops="2 * M * N * K",
    picture=(
        panel(
            "c: GROUP = 2, whose turn it is",
            4,
            4,
            sweep=[(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2), (0, 3), (1, 3)],
            ragged="rc",
            labels=("M", "N"),
        ),
        panel(
            "the same for GROUP = 1",
            4,
            4,
            sweep=[(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3)],
            ragged="rc",
        ),
    ),
    hints=(
        "Programs that run together should share rows of a and columns of b, so that the cache serves "
        "both. A square of tiles shares more than a long row.",
        "A group is GROUP tile rows and all tile columns, so it holds GROUP * columns programs. Within a "
        "group, count down a column first. The last group may have fewer rows: min(rows - first, GROUP).",
        "group = pid // (GROUP * columns); first = group * GROUP; height = tl.minimum(rows - first, "
        "GROUP); inside = pid % (GROUP * columns); i = first + inside % height; j = inside // height.",
    ),
)
def matmul_grouped(
    a: f32("M", "K"),
    b: f32("K", "N"),
    M: Size,
    N: Size,
    K: Size,
    GROUP: BlockSize,
    BLOCK_M: BlockSize,
    BLOCK_N: BlockSize,
    BLOCK_K: BlockSize,
):
    """c[m, n] = sum over k of a[m, k] * b[k, n], with the programs of axis 0 in grouped order

    The tile rows of c are cut into groups of GROUP; the last may be lower. Programs are numbered group by
    group, within a group by tile column, within a column from top to bottom. With GROUP = 2, programs 0 and 1
    own tiles (0, 0) and (1, 0); 2 and 3 own (0, 1) and (1, 1). The judge checks who writes which tile. All
    matrices are contiguous; past M, N and K is masked; full float32.
    """
    return dict(c=_product(a, b, program=lambda: _grouped_owner(M, N, BLOCK_M, BLOCK_N, GROUP)))


@puzzle(
    title="int8 weight matmul",
    minutes=35,
    notebook="16_smaller_and_sooner",
    grid=_TILES,
    outputs=dict(y=f32("M", "N")),
    cases=[
        case(M=16, N=16, K=16, BLOCK_M=16, BLOCK_N=16, BLOCK_K=16),
        case(M=5, N=35, K=70, BLOCK_M=16, BLOCK_N=16, BLOCK_K=32),
        case(M=1, N=1, K=1, BLOCK_M=16, BLOCK_N=16, BLOCK_K=16),
        case(M=18, N=33, K=40, BLOCK_M=16, BLOCK_N=32, BLOCK_K=16),
        case(M=33, N=36, K=80, BLOCK_M=32, BLOCK_N=16, BLOCK_K=16, grow=dict(M=1, N=2, K=1)),
    ],
    big=case(M=16, N=8192, K=4096, BLOCK_M=16, BLOCK_N=64, BLOCK_K=32),
    flops="2 * M * N * K",
    prepare=lambda t, sizes, rng: t | dict(scale=t["scale"].abs() / 64),
    budget=dict(w="N * K * cdiv(M, BLOCK_M)", scale="N * cdiv(M, BLOCK_M)"),
    picture=(
        panel("x", 2, 3, sweep=[(0, 0), (0, 1), (0, 2)], ragged="rc", labels=("M", "K")),
        panel("w", 4, 3, sweep=[(2, 0), (2, 1), (2, 2)], ragged="rc", labels=("N", "K")),
        panel("y", 2, 4, own=[(0, 2)], ragged="rc", labels=("M", "N")),
    ),
    hints=(
        "The scale belongs to a whole row of w, so to a column of y: it can leave the sum. Where is it "
        "cheapest?",
        "w lies as [N, K]. Load its tile as [BLOCK_N, BLOCK_K], convert to float32, and hand tl.trans of "
        "it to tl.dot.",
        "acc = tl.dot(x, tl.trans(w.to(tl.float32)), acc, input_precision='ieee') in the loop; after it, "
        "acc * scale[None, :], with scale loaded once at n with mask n < N.",
    ),
)
def int8_matmul(
    x: f32("M", "K"),
    w: i8("N", "K", low=-127, high=128),
    scale: f32("N"),
    M: Size,
    N: Size,
    K: Size,
    BLOCK_M: BlockSize,
    BLOCK_N: BlockSize,
    BLOCK_K: BlockSize,
):
    """y[m, n] = sum over k of x[m, k] * w[n, k] * scale[n]

    w holds one byte a weight, and one scale a row. Program (i, j) owns the tile of y at row i * BLOCK_M,
    column j * BLOCK_N. Each program loads its scales once. Everything is contiguous; past M, N and K is
    masked; full float32.
    """
    weight = w.to(scale.dtype) * scale[:, None]
    return dict(y=_product(x, weight.T))


def _q4_1(q: torch.Tensor, d: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
    """[N, K] the weights: in each block of 32, low nibbles are weights 0 to 15 and high nibbles 16 to 31."""
    blocks = q.view(q.shape[0], -1, 16).int()
    nibbles = torch.cat([blocks & 15, blocks >> 4], 2)
    return (nibbles.to(d.dtype) * d[:, :, None] + m[:, :, None]).flatten(1)


@puzzle(
    title="Packed int4 weight matmul",
    minutes=60,
    notebook="16_smaller_and_sooner",
    grid=_TILES,
    outputs=dict(y=f32("M", "N")),
    cases=[
        case(M=16, N=16, K=32, BLOCK_M=16, BLOCK_N=16),
        case(M=5, N=35, K=96, BLOCK_M=16, BLOCK_N=16),
        case(M=1, N=1, K=32, BLOCK_M=16, BLOCK_N=16),
        case(M=18, N=33, K=64, BLOCK_M=16, BLOCK_N=32),
        case(M=33, N=36, K=96, BLOCK_M=32, BLOCK_N=16, grow=dict(M=1, N=2, K=32)),
    ],
    big=case(M=16, N=8192, K=4096, BLOCK_M=16, BLOCK_N=64),
    flops="2 * M * N * K",
    budget=dict(q="N * (K // 2) * cdiv(M, BLOCK_M)"),
    picture=(
        panel("x", 2, 3, sweep=[(0, 0), (0, 1), (0, 2)], ragged="r", labels=("M", "K in blocks of 32")),
        panel("q", 4, 3, sweep=[(2, 0), (2, 1), (2, 2)], ragged="r", labels=("N", "16 bytes a block")),
        panel("d, m", 4, 3, sweep=[(2, 0), (2, 1), (2, 2)], ragged="r", labels=("", "1 a block")),
        panel("y", 2, 4, own=[(0, 2)], ragged="rc", labels=("M", "N")),
    ),
    hints=(
        "One byte holds two weights that are 16 apart, not neighbours. So a block of 32 is two "
        "half-blocks, and so is its piece of x.",
        "low = q & 15, high = q >> 4, both to float32. The weights are low * d + m and high * d + m. Two "
        "tl.dot a block: x's first 16 columns with the low weights, the next 16 with the high ones.",
        "for block in range(0, K // 32): j = tl.arange(0, 16); q at n * (K // 2) + block * 16 + j; d and "
        "m at n * (K // 32) + block; x_low at m * K + block * 32 + j, x_high 16 further.",
    ),
)
def int4_matmul(
    x: f32("M", "K"),
    q: u8("N", "K // 2", high=256),
    d: f16("N", "K // 32"),
    m: f16("N", "K // 32"),
    M: Size,
    N: Size,
    K: Size,
    BLOCK_M: BlockSize,
    BLOCK_N: BlockSize,
):
    """y[m, n] = sum over k of x[m, k] * weight[n, k], with weights in Q4_1 blocks

    K is a multiple of 32. Block b of row n holds 32 weights as 16 bytes q[n, 16 * b + j], one d and one m:
    weight[n, 32 * b + j] = (q & 15) * d + m, and weight[n, 32 * b + 16 + j] = (q >> 4) * d + m, j < 16. Load
    each byte once a program. Program (i, j) owns the tile of y at row i * BLOCK_M, column j * BLOCK_N.
    Everything is contiguous; past M and N is masked; full float32.
    """
    weight = _q4_1(q, d, m)
    size = _q4_1(q, d.abs(), m.abs())
    return dict(y=Expected(x.to(weight.dtype) @ weight.T, terms=K,
                           size=lambda: x.abs().to(size.dtype) @ size.T))


@puzzle(
    title="SwiGLU fused into its matmul",
    minutes=45,
    notebook="10_fused_kernels",
    grid="cdiv(M, BLOCK_M), cdiv(F, BLOCK_F)",
    outputs=dict(h=f32("M", "F")),
    cases=[
        case(M=16, D=16, F=16, BLOCK_M=16, BLOCK_F=16, BLOCK_D=16),
        case(M=5, D=50, F=35, BLOCK_M=16, BLOCK_F=16, BLOCK_D=16),
        case(M=1, D=1, F=1, BLOCK_M=16, BLOCK_F=16, BLOCK_D=16),
        case(M=20, D=33, F=18, BLOCK_M=16, BLOCK_F=32, BLOCK_D=32, scale=4.0),
        case(M=33, D=64, F=36, BLOCK_M=32, BLOCK_F=16, BLOCK_D=32, grow=dict(M=1, D=1, F=2)),
    ],
    big=case(M=2048, D=1024, F=2816, BLOCK_M=64, BLOCK_F=32, BLOCK_D=32),
    flops="4 * M * D * F",
    budget=dict(
        x="M * D * cdiv(F, BLOCK_F)",
        w_gate="D * F * cdiv(M, BLOCK_M)",
        w_up="D * F * cdiv(M, BLOCK_M)",
    ),
    picture=(
        panel("x", 3, 3, sweep=[(1, 0), (1, 1), (1, 2)], ragged="rc", labels=("M", "D")),
        panel("w_gate, w_up", 3, 4, sweep=[(0, 2), (1, 2), (2, 2)], ragged="rc", labels=("D", "F")),
        panel("h", 3, 4, own=[(1, 2)], ragged="rc", labels=("M", "F")),
    ),
    hints=(
        "Two matrix products share x. If one program does both for the same tile, neither product is "
        "ever stored.",
        "Keep two accumulators. Load the tile of x once in each step and use it for both.",
        "gate = tl.dot(x, wg, gate, input_precision='ieee'); up = tl.dot(x, wu, up, "
        "input_precision='ieee'); at the end, h = gate * tl.sigmoid(gate) * up.",
    ),
)
def swiglu(
    x: f32("M", "D"),
    w_gate: f32("D", "F"),
    w_up: f32("D", "F"),
    M: Size,
    D: Size,
    F: Size,
    BLOCK_M: BlockSize,
    BLOCK_F: BlockSize,
    BLOCK_D: BlockSize,
):
    """h = silu(x @ w_gate) * (x @ w_up), element by element, where silu(g) = g / (1 + exp(-g))

    Program (i, j) owns the tile of h at row i * BLOCK_M, column j * BLOCK_F, and loads each tile of x once.
    Everything is contiguous; past M, D and F is masked; full float32.
    """
    gate, up = x @ w_gate, x @ w_up
    return dict(
        h=Expected(
            torch.nn.functional.silu(gate) * up,
            terms=D,
            amplified=8,
            size=lambda: _swiglu_size(x, w_gate, w_up, gate, up),
        )
    )


def _swiglu_size(x, w_gate, w_up, gate, up):
    """An error in gate grows by silu's slope there, times up; one in up by silu(gate)."""
    gate_size, up_size = x.abs() @ w_gate.abs(), x.abs() @ w_up.abs()
    sigmoid = torch.sigmoid(gate)
    slope = (sigmoid * (1 + gate * (1 - sigmoid))).abs() + 0.001
    return slope * gate_size * up.abs() + (gate * sigmoid).abs() * (up_size + up.abs())
