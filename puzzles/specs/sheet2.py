"""Sheet 2, loops and reductions: rows longer than a block, kept in a few running values. Notebook 10."""

import torch

from puzzles.puzzle import Expected, case, puzzle
from puzzles.specs.made import all_equal, largest_at_the_edges
from puzzles.tensors import BlockSize, Number, Size, f16, f32, i32
from puzzles.tiling import panel

_ROW = (panel("x", 4, 4, sweep=[(1, 0), (1, 1), (1, 2), (1, 3)],
              ragged="c", labels=("N", "M, in blocks of BLOCK")),)
_EXP = 200  # exp(x - m) for |x - m| < 88 is off by up to 88 units, and so is each rescaling


@puzzle(
    title="Long sum",
    minutes=20,
    notebook="08_gpu_programming",
    grid="N",
    outputs=dict(z=f32("N")),
    cases=[case(N=2, M=16, BLOCK=16), case(N=4, M=200, BLOCK=32), case(N=1, M=1, BLOCK=8),
           case(N=3, M=256, BLOCK=16, grow=dict(M=1))],
    big=case(N=4096, M=16384, BLOCK=1024),
    budget=dict(x="N * M"),
    picture=(*_ROW, panel("z", 4, 1, own=[(1, 0)], labels=("N", ""))),
    hints=(
        "A block is too short for a row, so walk: keep a block of running sums, add the next block to "
        "it, and sum it up once at the end.",
        "for start in range(0, M, BLOCK): is an ordinary loop. Masked lanes must add nothing: what value "
        "of other= adds nothing?",
        "acc = tl.zeros([BLOCK], dtype=tl.float32); in the loop, acc += tl.load(x_ptr + row * M + start "
        "+ offsets, mask=start + offsets < M, other=0.0); then tl.store(z_ptr + row, tl.sum(acc, 0)).",
    ),
)
def long_sum(x: f32("N", "M"), N: Size, M: Size, BLOCK: BlockSize):
    """z[n] = x[n, 0] + x[n, 1] + ... + x[n, M - 1]

    Program n on axis 0 owns row n, whatever its length: it walks along the row in blocks of BLOCK and stores
    one number. Lanes past M must add nothing. x is contiguous.
    """
    return dict(z=Expected(x.sum(1), terms=M, size=lambda: x.abs().sum(1)))


@puzzle(
    title="Online softmax",
    minutes=40,
    notebook="10_fused_kernels",
    grid="N",
    outputs=dict(z=f32("N", "M")),
    cases=[
        case(N=2, M=16, BLOCK=16),
        case(N=4, M=200, BLOCK=32),
        case(N=3, M=1, BLOCK=8),
        case(N=3, M=65, BLOCK=16, scale=100.0),
        case(N=2, M=33, BLOCK=16, shift=-30000.0),
        case(N=5, M=33, BLOCK=16, make=largest_at_the_edges),
        case(N=2, M=32, BLOCK=16, make=all_equal),
        case(N=2, M=256, BLOCK=64, grow=dict(M=1)),
    ],
    big=case(N=4096, M=16384, BLOCK=1024),
    budget=dict(x="2 * N * M"),
    picture=(*_ROW, panel("z", 4, 4, own=[(1, 0), (1, 1), (1, 2), (1, 3)], ragged="c", labels=("N", "M"))),
    hints=(
        "A softmax needs the row's maximum m and the sum s of exp(x - m). Both can be carried along in "
        "one walk; a second walk writes.",
        "When a block raises the maximum from m to m_new, the sum so far was measured against the old m: "
        "multiply it by exp(m - m_new).",
        "m_new = tl.maximum(m, tl.max(x, 0)); s = s * tl.exp(m - m_new) + tl.sum(tl.exp(x - m_new), 0); "
        "m = m_new; start with m = -inf and s = 0, and load with other=-float('inf'), which adds "
        "exp(-inf) = 0.",
    ),
)
def online_softmax(x: f32("N", "M"), N: Size, M: Size, BLOCK: BlockSize):
    """z[n, m] = exp(x[n, m] - max of row n) / sum over the row of the same

    Program n on axis 0 owns row n and may load each element of x at most twice: one walk for maximum and sum
    together, one to write. Values may be so large that exp(x) overflows. Lanes past M are masked.
    """
    # exp(x - lse) is a softmax, too: a large lse is rounded, and exp makes of it a relative error.
    rounded = int(2 * torch.logsumexp(x, 1).abs().max())
    return dict(z=Expected(torch.softmax(x, 1), terms=M, amplified=_EXP + rounded))


def _plain_weight(tensors, sizes, rng):
    """Only x is scaled by a case, not the weight."""
    return tensors | dict(weight=torch.randn(sizes["D"], generator=rng).half())


@puzzle(
    title="RMSNorm",
    minutes=25,
    notebook="10_fused_kernels",
    grid="N",
    outputs=dict(y=f16("N", "D")),
    prepare=_plain_weight,
    cases=[
        case(N=2, D=16, eps=1e-6, BLOCK=16),
        case(N=3, D=100, eps=1e-5, BLOCK=128),
        case(N=1, D=1, eps=1e-3, BLOCK=8),
        case(N=3, D=40, eps=1e-6, BLOCK=64, scale=1e-3),
        case(N=2, D=30, eps=1e-6, BLOCK=32, scale=200.0),
        case(N=4, D=101, eps=2e-3, BLOCK=256, scale=0.05, grow=dict(D=3)),
    ],
    big=case(N=8192, D=4096, eps=1e-6, BLOCK=4096),
    budget=dict(x="N * D"),
    picture=(
        panel("x", 4, 1, sweep=[(1, 0)], ragged="c", labels=("N", "D in one block")),
        panel("weight", 1, 1, sweep=[(0, 0)], ragged="c"),
        panel("y", 4, 1, own=[(1, 0)], ragged="c", labels=("N", "D")),
    ),
    hints=(
        "The row fits into one block, so there is no loop. But float16 ends at 65,504: which step cannot "
        "be done in float16?",
        "Convert after the load: x.to(tl.float32). The mean divides by D, not by BLOCK. The store rounds "
        "to float16 by itself, once.",
        "scale = 1 / tl.sqrt(tl.sum(x * x, 0) / D + eps); y = x * scale * weight, all float32; load x "
        "and weight with other=0.0.",
    ),
)
def rms_norm(x: f16("N", "D"), weight: f16("D"), N: Size, D: Size, eps: Number, BLOCK: BlockSize):
    """y[n, d] = x[n, d] / sqrt(mean over the row of x^2 + eps) * weight[d]

    x, weight and y are float16; compute in float32 and round once, when storing. Program n on axis 0 owns row
    n, which fits into one block (D <= BLOCK). Lanes past D are masked. x may be loaded once.
    """
    y = x * torch.rsqrt(x.square().mean(1, keepdim=True) + eps) * weight
    return dict(y=Expected(y, terms=D))


def _ties(tensors, sizes, rng):
    """Few different values, so that the largest occurs more than once."""
    return dict(x=(tensors["x"] * 2).round() / 2)


@puzzle(
    title="Argmax, for greedy sampling",
    minutes=30,
    notebook="11_kv_cache",
    grid="N",
    outputs=dict(token=i32("N")),
    prepare=_ties,
    cases=[
        case(N=2, V=16, BLOCK=16),
        case(N=4, V=200, BLOCK=32),
        case(N=2, V=1, BLOCK=8),
        case(N=6, V=70, BLOCK=16, shift=-30000.0),
        case(N=5, V=35, BLOCK=16, make=largest_at_the_edges),
        case(N=2, V=32, BLOCK=16, make=all_equal),
        case(N=1, V=12001, BLOCK=4096, make=largest_at_the_edges),      # rounding changes its index
        case(N=2, V=256, BLOCK=64, grow=dict(V=1)),
    ],
    big=case(N=256, V=131072, BLOCK=1024),
    budget=dict(x="N * V"),
    picture=(
        panel("x", 4, 4, sweep=[(1, 0), (1, 1), (1, 2), (1, 3)],
              ragged="c", labels=("N", "V, in blocks of BLOCK")),
        panel("token", 4, 1, own=[(1, 0)], labels=("N", "")),
    ),
    hints=(
        "Carry two numbers along the row: the best value so far, and where it was.",
        "tl.max(x, 0) is a block's best value and tl.argmax(x, 0) its index within the block, the first "
        "if there are several. A later block takes over only if it is strictly better.",
        "better = tl.max(x, 0) > best; at = tl.where(better, start + tl.argmax(x, 0), at); best = "
        "tl.maximum(best, tl.max(x, 0)); load with other=-float('inf').",
    ),
)
def argmax(x: f32("N", "V"), N: Size, V: Size, BLOCK: BlockSize):
    """token[n] = the smallest v for which x[n, v] is the largest of row n

    Program n on axis 0 owns row n and walks along it in blocks of BLOCK, loading each element once. All
    values of a row may be far below zero. On a tie the smallest index wins: greedy decoding must be
    reproducible.
    """
    return dict(token=Expected((x == x.amax(1, keepdim=True)).int().argmax(1)))


@puzzle(
    title="Cross-entropy without writing the softmax",
    minutes=35,
    notebook="10_fused_kernels",
    grid="N",
    outputs=dict(loss=f32("N")),
    cases=[
        case(N=2, V=16, BLOCK=16),
        case(N=4, V=200, BLOCK=32),
        case(N=3, V=1, BLOCK=8),
        case(N=3, V=65, BLOCK=16, scale=100.0),
        case(N=2, V=40, BLOCK=16, shift=-30000.0),
        case(N=5, V=35, BLOCK=16, make=largest_at_the_edges),
        case(N=2, V=32, BLOCK=16, make=all_equal),
        case(N=2, V=256, BLOCK=64, grow=dict(V=1)),
    ],
    big=case(N=4096, V=49152, BLOCK=1024),
    budget=dict(x="N * V + N"),
    picture=(
        panel("x", 4, 4, sweep=[(1, 0), (1, 1), (1, 2), (1, 3)],
              ragged="c", labels=("N", "V, in blocks of BLOCK")),
        panel("target", 4, 1, sweep=[(1, 0)]),
        panel("loss", 4, 1, own=[(1, 0)]),
    ),
    hints=(
        "-log(softmax(x)[t]) = log(sum of exp(x)) - x[t]. Neither the softmax nor its row is ever needed.",
        "The log-sum-exp is m + log(s), with the m and s of the online softmax. The target's logit is a "
        "single load at a computed address.",
        "After the walk: t = tl.load(target_ptr + row); loss = m + tl.log(s) - tl.load(x_ptr + row * V + t).",
    ),
)
def cross_entropy(x: f32("N", "V"), target: i32("N", high="V"), N: Size, V: Size, BLOCK: BlockSize):
    """loss[n] = log(sum over v of exp(x[n, v])) - x[n, target[n]]

    Program n on axis 0 owns row n and stores one number. It may load each element of x once, and the target's
    once more. Logits may be so large that exp overflows. Lanes past V are masked.
    """
    lse, hit = torch.logsumexp(x, 1), x.gather(1, target.long()[:, None])[:, 0]
    # The log takes the sum's relative error as it is; the large parts are rounded a few times only.
    return dict(loss=Expected(lse - hit, terms=V, amplified=_EXP,
                              size=lambda: 1 + (x.abs().amax(1) + hit.abs()) / 16))


def _convolve(x: torch.Tensor, k: torch.Tensor, KH: int, KW: int) -> torch.Tensor:
    padded = torch.nn.functional.pad(x, (0, KW - 1, 0, KH - 1))
    return torch.nn.functional.conv2d(padded[:, None], k[None, None])[:, 0]


@puzzle(
    title="2-D convolution",
    minutes=45,
    notebook="08_gpu_programming",
    grid="B, cdiv(H, BLOCK_H), cdiv(W, BLOCK_W)",
    outputs=dict(z=f32("B", "H", "W")),
    cases=[
        case(B=1, H=4, W=8, KH=2, KW=2, BLOCK_H=4, BLOCK_W=8),
        case(B=2, H=9, W=7, KH=3, KW=2, BLOCK_H=4, BLOCK_W=4),
        case(B=3, H=1, W=5, KH=1, KW=3, BLOCK_H=2, BLOCK_W=4),
        case(B=2, H=6, W=10, KH=1, KW=1, BLOCK_H=4, BLOCK_W=8),
        case(B=2, H=10, W=17, KH=3, KW=4, BLOCK_H=8, BLOCK_W=16, grow=dict(H=1, W=1)),
    ],
    big=case(B=64, H=256, W=250, KH=3, KW=3, BLOCK_H=16, BLOCK_W=64),
    # Only weights that meet a pixel: the last rows and columns have fewer neighbours.
    flops="2 * B * (H * KH - KH * (KH - 1) // 2) * (W * KW - KW * (KW - 1) // 2)",
    picture=(
        panel("k, weight by weight", 2, 2, sweep=[(0, 0), (0, 1), (1, 0), (1, 1)], labels=("KH", "KW")),
        panel("x, shifted anew for each weight", 3, 4, sweep=[(1, 1)], ragged="rc", labels=("H", "W")),
        panel("z", 3, 4, own=[(1, 1)], ragged="rc", labels=("H", "W")),
    ),
    hints=(
        "Every weight of k shifts the whole tile by (di, dj) and adds it, scaled. So loop over the "
        "weights, not over the pixels.",
        "In the loop over di and dj: rows h + di, columns w + dj of image b. Which of these exist? The "
        "others count as zero.",
        "acc += tl.load(k_ptr + di * KW + dj) * tl.load(x_ptr + b * H * W + (h + di)[:, None] * W + (w + "
        "dj)[None, :], mask=((h + di)[:, None] < H) & ((w + dj)[None, :] < W), other=0.0).",
    ),
)
def conv2d(
    x: f32("B", "H", "W"),
    k: f32("KH", "KW"),
    B: Size,
    H: Size,
    W: Size,
    KH: Size,
    KW: Size,
    BLOCK_H: BlockSize,
    BLOCK_W: BlockSize,
):
    """z[b, h, w] = sum over di < KH, dj < KW of k[di, dj] * x[b, h + di, w + dj]; x is 0 outside of the image

    Program (b, i, j) owns the tile of image b that begins at row i * BLOCK_H, column j * BLOCK_W. Row H of
    image b is not row 0 of image b + 1. KH and KW are known only at run time, so k is read weight by weight.
    Everything is contiguous; rows past H and columns past W are masked.
    """
    return dict(z=Expected(_convolve(x, k, KH, KW), terms=KH * KW,
                           size=lambda: _convolve(x.abs(), k.abs(), KH, KW)))
