"""Sheet 4, attention: softmax and matrix products in one walk, forward and backward. Notebooks 03 and 10."""

import torch

from puzzles.puzzle import Expected, case, puzzle
from puzzles.tensors import BlockSize, Number, Size, f32, i32
from puzzles.specs.attention import amplified_by, angles_met, attend, backward, biases_met, jagged
from puzzles.specs.attention import saved_by_forward, silu_size
from puzzles.specs.made import first_and_last_position, scores_far_below_zero
from puzzles.tiling import panel


# What causal walks load: all programs' blocks of keys up to the diagonal.
_UP_TO_THE_DIAGONAL = "H * D * (BLOCK * cdiv(T, BLOCK) * (cdiv(T, BLOCK) - 1) // 2 + T)"


@puzzle(
    title="Scalar flash attention",
    minutes=45,
    notebook="10_fused_kernels",
    grid="cdiv(N, BLOCK_N)",
    outputs=dict(z=f32("N")),
    cases=[
        case(N=16, S=16, BLOCK_N=16, BLOCK_S=16),
        case(N=20, S=70, BLOCK_N=16, BLOCK_S=32),
        case(N=1, S=1, BLOCK_N=8, BLOCK_S=8),
        case(N=33, S=21, BLOCK_N=32, BLOCK_S=16, scale=20.0),
        case(N=9, S=144, BLOCK_N=8, BLOCK_S=16, grow=dict(N=1, S=2)),
        case(N=9, S=43, BLOCK_N=8, BLOCK_S=16, make=scores_far_below_zero),
    ],
    big=case(N=4096, S=8191, BLOCK_N=64, BLOCK_S=64),
    budget=dict(q="N", k="S * cdiv(N, BLOCK_N)", v="S * cdiv(N, BLOCK_N)"),
    picture=(
        panel("q", 4, 1, sweep=[(1, 0)], ragged="r", labels=("N", "")),
        panel(
            "scores, never stored", 4, 4, sweep=[(1, 0), (1, 1), (1, 2), (1, 3)],
            ragged="rc", labels=("N", "S")
        ),
        panel("k and v", 1, 4, sweep=[(0, 0), (0, 1), (0, 2), (0, 3)], ragged="c"),
        panel("z", 4, 1, own=[(1, 0)], ragged="r"),
    ),
    hints=(
        "This is the online softmax with one more running value: the sum of exp(score) * v. The scores "
        "are never stored.",
        "A program keeps three blocks of BLOCK_N values: maximum, sum, and weighted sum. A new maximum "
        "rescales both sums by the same factor.",
        "s = q[:, None] * k[None, :], with tl.where(j[None, :] < S, s, -float('inf')); m_new = "
        "tl.maximum(m, tl.max(s, 1)); p = tl.exp(s - m_new[:, None]); fix = tl.exp(m - m_new); total = "
        "total * fix + tl.sum(p, 1); acc = acc * fix + tl.sum(p * v[None, :], 1).",
    ),
)
def scalar_flash(q: f32("N"), k: f32("S"), v: f32("S"), N: Size, S: Size, BLOCK_N: BlockSize,
                 BLOCK_S: BlockSize):
    """z[n] = sum over s of softmax over s of (q[n] * k[s]) * v[s]

    Program i on axis 0 owns queries i * BLOCK_N and on, and walks once over k and v in blocks of BLOCK_S,
    loading each element once. Scores may be so large that exp overflows. Past N and S is masked.
    """
    scores = q[:, None] * k[None, :]
    p = torch.softmax(scores, 1)
    return dict(z=Expected(p @ v, terms=S, amplified=amplified_by(1, scores.abs()), size=lambda: p @ v.abs()))


@puzzle(
    title="Tiled causal flash attention with GQA",
    minutes=75,
    notebook="10_fused_kernels",
    grid="H, cdiv(T, BLOCK)",
    outputs=dict(o=f32("H", "T", "D"), lse=f32("H", "T")),
    cases=[
        case(H=1, K=1, T=16, sm_scale=0.25, D=16, BLOCK=16),
        case(H=6, K=2, T=37, sm_scale=0.3, D=16, BLOCK=16),
        case(H=3, K=1, T=1, sm_scale=0.18, D=32, BLOCK=16),
        case(H=8, K=4, T=35, sm_scale=0.2, D=16, BLOCK=32, scale=6.0),
        case(H=4, K=2, T=48, sm_scale=0.18, D=32, BLOCK=16, make=scores_far_below_zero, grow=dict(T=1)),
    ],
    big=case(H=32, K=8, T=2047, sm_scale=0.125, D=64, BLOCK=32),
    flops="2 * H * T * T * D",
    budget=dict(
        q="H * T * D",
        k=_UP_TO_THE_DIAGONAL,
        v=_UP_TO_THE_DIAGONAL,
    ),
    picture=(
        panel("q", 4, 1, sweep=[(2, 0)], ragged="r", labels=("T", "D")),
        panel(
            "scores, never stored", 4, 4, sweep=[(2, 0), (2, 1), (2, 2)],
            ragged="rc", labels=("T queries", "T keys")
        ),
        panel("k, v", 4, 1, sweep=[(0, 0), (1, 0), (2, 0)], ragged="r", labels=("T", "D")),
        panel("o", 4, 1, own=[(2, 0)], ragged="r", labels=("T", "D")),
    ),
    hints=(
        "As in the scalar puzzle, with tl.dot for the scores and for the weighted sum. A query block "
        "needs no key block to its right.",
        "Head h reads key head h // (H // K). The walk ends with the block on the diagonal, and only "
        "there do query and key positions have to be compared.",
        "for start in range(0, (i + 1) * BLOCK, BLOCK), with i = tl.program_id(1); s = tl.dot(q, "
        "tl.trans(k), input_precision='ieee') * sm_scale; s = tl.where((t[:, None] >= j[None, :]) & "
        "(j[None, :] < T), s, -float('inf')); end with lse = m + tl.log(total).",
    ),
)
def flash_attention(
    q: f32("H", "T", "D"),
    k: f32("K", "T", "D"),
    v: f32("K", "T", "D"),
    H: Size,
    K: Size,
    T: Size,
    sm_scale: Number,
    D: BlockSize,
    BLOCK: BlockSize,
):
    """o[h, t] = sum over j <= t of softmax over j <= t of (q[h, t] . k[g, j] * sm_scale) * v[g, j],
        with g = h // (H // K)

    and lse[h, t] = log(sum over j <= t of exp(q[h, t] . k[g, j] * sm_scale)), which the backward needs. K
    key heads serve H query heads. Program (h, i) owns queries i * BLOCK and on of head h, walks over key
    blocks of BLOCK, and loads none that lies wholly after its last query. D is a power of two. Everything is
    contiguous; past T is masked; full float32.
    """
    o, lse, p, size = attend(q, k.repeat_interleave(H // K, 0), v.repeat_interleave(H // K, 0), sm_scale)
    amplified = amplified_by(D, size)
    return dict(
        o=Expected(o, terms=T, amplified=amplified, size=lambda: p @ v.abs().repeat_interleave(H // K, 0)),
        lse=Expected(lse, terms=T, amplified=amplified, size=lambda: 1 + lse.abs() / 16),
    )


@puzzle(
    title="RoPE",
    minutes=30,
    notebook="03_transformer",
    grid="N",
    outputs=dict(y=f32("N", "H", "D")),
    cases=[
        case(N=2, H=2, P=8, D=16, BLOCK_H=2),
        case(N=5, H=3, P=40, D=16, BLOCK_H=4),
        case(N=1, H=1, P=1, D=2, BLOCK_H=1),
        case(N=4, H=5, P=9, D=8, BLOCK_H=8, layout=1),
        case(N=3, H=2, P=9, D=4, BLOCK_H=2, layout=2),
        case(N=6, H=6, P=41, D=32, BLOCK_H=16, make=first_and_last_position, grow=dict(N=1, H=1, P=2)),
    ],
    big=case(N=8192, H=32, P=4096, D=64, BLOCK_H=32),
    budget=dict(x="N * H * D", cos="N * (D // 2)", sin="N * (D // 2)"),
    needs=angles_met,
    picture=(
        panel("x: one token", 3, 2, sweep=[(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)],
              ragged="r", labels=("H", "two halves of D")),
        panel("cos, sin", 4, 1, sweep=[(2, 0)], labels=("P", "D / 2")),
        panel("y", 3, 2, own=[(i, j) for i in range(3) for j in range(2)], ragged="r"),
    ),
    hints=(
        "Each pair (x[i], x[i + D/2]) is a point in the plane, turned by an angle that depends on the "
        "token's position.",
        "All heads of a token turn by the same angles: one row of cos and sin, loaded once, serves them "
        "all. Load the two halves of x as two blocks.",
        "i = tl.arange(0, D // 2); c = tl.load(cos_ptr + tl.load(position_ptr + n) * (D // 2) + i)[None, "
        ":]; y_low = low * c - high * s; y_high = high * c + low * s.",
    ),
)
def rope(
    x: f32("N", "H", "D", strides=True),
    cos: f32("P", "D // 2"),
    sin: f32("P", "D // 2"),
    position: i32("N", high="P"),
    N: Size,
    H: Size,
    P: Size,
    D: BlockSize,
    BLOCK_H: BlockSize,
):
    """y[n, h, i] = x[n, h, i] * cos[p, i] - x[n, h, i + D/2] * sin[p, i]
    y[n, h, i + D/2] = x[n, h, i + D/2] * cos[p, i] + x[n, h, i] * sin[p, i], with p = position[n], i < D/2

    Program n on axis 0 owns token n with all its heads (H <= BLOCK_H, masked past H) and loads its row of cos
    and sin once. D is a power of two. x comes with strides (it may be a slice of a tensor in which q, k and v
    lie side by side); the rest is contiguous.
    """
    c, s = cos[position.long()][:, None], sin[position.long()][:, None]
    low, high = x.chunk(2, -1)
    y = torch.cat([low * c - high * s, high * c + low * s], -1)
    return dict(
        y=Expected(
            y,
            terms=4,
            size=lambda: torch.cat([(low * c).abs() + (high * s).abs(),
                                (high * c).abs() + (low * s).abs()], -1),
        )
    )


_BACKWARD_CASES = [
    case(H=1, T=16, sm_scale=0.25, D=16, BLOCK=16),
    case(H=2, T=37, sm_scale=0.3, D=16, BLOCK=16),
    case(H=1, T=1, sm_scale=0.18, D=32, BLOCK=16),
    case(H=2, T=40, sm_scale=0.2, D=16, BLOCK=32, scale=3.0),
    case(H=3, T=48, sm_scale=0.18, D=32, BLOCK=16, grow=dict(T=1)),
]
_FROM_THE_DIAGONAL = (
    "H * D * (T * cdiv(T, BLOCK) - BLOCK * cdiv(T, BLOCK) * (cdiv(T, BLOCK) - 1) // 2)"
)
_BACKWARD_BIG = case(H=32, T=2047, sm_scale=0.125, D=64, BLOCK=16)


@puzzle(
    title="Flash attention backward: dq",
    minutes=60,
    notebook="10_fused_kernels",
    grid="H, cdiv(T, BLOCK)",
    outputs=dict(dq=f32("H", "T", "D")),
    prepare=saved_by_forward,
    cases=_BACKWARD_CASES,
    big=_BACKWARD_BIG,
    flops="3 * H * T * T * D",
    budget=dict(q="H * T * D", do="H * T * D", k=_UP_TO_THE_DIAGONAL, v=_UP_TO_THE_DIAGONAL),
    picture=(
        panel("q, do, lse, delta", 4, 1, sweep=[(2, 0)], ragged="r", labels=("T", "D")),
        panel("p, never stored", 4, 4, sweep=[(2, 0), (2, 1), (2, 2)],
              ragged="rc", labels=("queries", "keys")),
        panel("k, v", 4, 1, sweep=[(0, 0), (1, 0), (2, 0)], ragged="r"),
        panel("dq", 4, 1, own=[(2, 0)], ragged="r", labels=("T", "D")),
    ),
    hints=(
        "Nothing of size T x T was saved, and nothing has to be: p = exp(score - lse) brings a tile of "
        "probabilities back, already normalised.",
        "The gradient of a softmax row is ds = p * (dp - delta), with dp = do . v. Then dq is the sum of "
        "ds * k over the keys, times sm_scale.",
        "In the walk: p = tl.where(seen, tl.exp(s - lse[:, None]), 0.0); dp = tl.dot(do, tl.trans(v), "
        "input_precision='ieee'); ds = p * (dp - delta[:, None]); dq = tl.dot(ds, k, dq, "
        "input_precision='ieee'); store dq * sm_scale.",
    ),
)
def flash_dq(
    q: f32("H", "T", "D"),
    k: f32("H", "T", "D"),
    v: f32("H", "T", "D"),
    do: f32("H", "T", "D"),
    lse: f32("H", "T"),
    delta: f32("H", "T"),
    H: Size,
    T: Size,
    sm_scale: Number,
    D: BlockSize,
    BLOCK: BlockSize,
):
    """dq[h, t] = sm_scale * sum over j <= t of p[t, j] * (do[h, t] . v[h, j] - delta[h, t]) * k[h, j]

    with p[t, j] = exp(q[h, t] . k[h, j] * sm_scale - lse[h, t]). do is the gradient of the output, lse was
    saved by the forward, and delta[h, t] = do[h, t] . o[h, t]. Program (h, i) owns queries i * BLOCK and on
    of head h and walks over the keys they see. Contiguous; past T is masked; full float32.
    """
    _, ds, ds_size, amplified = backward(q, k, v, do, lse, delta, sm_scale)
    return dict(dq=Expected(ds @ k * sm_scale, terms=T, amplified=amplified,
                            size=lambda: ds_size @ k.abs() * sm_scale))


@puzzle(
    title="Flash attention backward: dk and dv",
    minutes=60,
    notebook="10_fused_kernels",
    grid="H, cdiv(T, BLOCK)",
    outputs=dict(dk=f32("H", "T", "D"), dv=f32("H", "T", "D")),
    prepare=saved_by_forward,
    cases=_BACKWARD_CASES,
    big=_BACKWARD_BIG,
    flops="4 * H * T * T * D",
    budget=dict(k="H * T * D", v="H * T * D", q=_FROM_THE_DIAGONAL, do=_FROM_THE_DIAGONAL),
    picture=(
        panel("k, v", 4, 1, sweep=[(1, 0)], ragged="r", labels=("T", "D")),
        panel("p, never stored", 4, 4, sweep=[(1, 1), (2, 1), (3, 1)],
              ragged="rc", labels=("queries", "keys")),
        panel("q, do, lse, delta", 4, 1, sweep=[(1, 0), (2, 0), (3, 0)], ragged="r"),
        panel("dk, dv", 4, 1, own=[(1, 0)], ragged="r", labels=("T", "D")),
    ),
    hints=(
        "If programs owned queries, many would add into one dk. So turn the walk around: a program owns "
        "keys and walks over queries. No atomics are needed.",
        "Keys from j on are seen by queries from j on: the walk begins on the diagonal. dv is the sum of "
        "p * do, dk that of ds * q, over the queries.",
        "for start in range(i * BLOCK, T, BLOCK): recompute p as [queries, keys]; dv = "
        "tl.dot(tl.trans(p), do, dv, input_precision='ieee'); dk = tl.dot(tl.trans(ds), q, dk, "
        "input_precision='ieee'). p must be 0 for masked queries.",
    ),
)
def flash_dkdv(
    q: f32("H", "T", "D"),
    k: f32("H", "T", "D"),
    v: f32("H", "T", "D"),
    do: f32("H", "T", "D"),
    lse: f32("H", "T"),
    delta: f32("H", "T"),
    H: Size,
    T: Size,
    sm_scale: Number,
    D: BlockSize,
    BLOCK: BlockSize,
):
    """dv[h, j] = sum over t >= j of p[t, j] * do[h, t]
    dk[h, j] = sm_scale * sum over t >= j of p[t, j] * (do[h, t] . v[h, j] - delta[h, t]) * q[h, t]

    with p[t, j] = exp(q[h, t] . k[h, j] * sm_scale - lse[h, t]). Program (h, i) owns keys i * BLOCK and on of
    head h, loads them once, and walks over the queries that see them. Contiguous; past T is masked; full
    float32; no atomics are needed.
    """
    p, ds, ds_size, amplified = backward(q, k, v, do, lse, delta, sm_scale)
    turned = ds.transpose(1, 2)
    return dict(
        dv=Expected(p.transpose(1, 2) @ do, terms=T, amplified=amplified,
                    size=lambda: p.transpose(1, 2) @ do.abs()),
        dk=Expected(
            turned @ q * sm_scale,
            terms=T,
            amplified=amplified,
            size=lambda: ds_size.transpose(1, 2) @ q.abs() * sm_scale,
        ),
    )


@puzzle(
    title="HSTU attention with relative bias",
    minutes=75,
    notebook="10b_recommender",
    grid="B, H, cdiv(N, BLOCK)",
    outputs=dict(o=f32("L", "H", "D")),
    prepare=jagged,
    cases=[
        case(B=1, L=16, H=1, N=16, M=4, WIDTH=8, D=16, BLOCK=16),
        case(B=3, L=50, H=2, N=40, M=6, WIDTH=10, D=16, BLOCK=16),
        case(B=2, L=1, H=1, N=5, M=2, WIDTH=3, D=16, BLOCK=16),
        case(B=2, L=35, H=1, N=18, M=9, WIDTH=4, D=32, BLOCK=16, scale=2.0),
        case(B=1, L=41, H=3, N=43, M=5, WIDTH=7, D=16, BLOCK=32, grow=dict(M=1, WIDTH=1)),
    ],
    big=case(B=16, L=16000, H=4, N=2048, M=128, WIDTH=64, D=64, BLOCK=32),
    needs=biases_met,
    flops="2 * H * D * L * L // B",         # at least: sequences of one length have the fewest pairs
    budget=dict(
        q="L * H * D",
        k="B * H * D * (BLOCK * cdiv(N, BLOCK) * (cdiv(N, BLOCK) - 1) // 2 + N)",
        v="B * H * D * (BLOCK * cdiv(N, BLOCK) * (cdiv(N, BLOCK) - 1) // 2 + N)",
    ),
    picture=(
        panel("q of one sequence", 3, 1, sweep=[(1, 0)], ragged="r", labels=("its length", "D")),
        panel("weights, never stored", 3, 3, sweep=[(1, 0), (1, 1)], ragged="rc", labels=("items", "items")),
        panel("k, v", 3, 1, sweep=[(0, 0), (1, 0)], ragged="r"),
        panel("o", 3, 1, own=[(1, 0)], ragged="r", labels=("", "D")),
    ),
    hints=(
        "There is no softmax here: SiLU works on each score by itself, so the walk needs no maximum, no "
        "sum and no rescaling.",
        "Sequence b lies in rows offset[b] to offset[b + 1] - 1. A program whose block begins past the "
        "sequence's end has nothing to do. Both biases are gathers: loads at computed indices.",
        "s = tl.dot(q, tl.trans(k), input_precision='ieee') + tl.load(position_bias_ptr + (i - j), "
        "mask=seen, other=0.0) + tl.load(time_bias_ptr + tl.minimum((time_i - time_j) // WIDTH, M - 1), "
        "mask=seen, other=0.0); a = tl.where(seen, s * tl.sigmoid(s), 0.0) / N; acc = tl.dot(a, v, acc, "
        "...).",
    ),
)
def hstu_attention(
    q: f32("L", "H", "D"),
    k: f32("L", "H", "D"),
    v: f32("L", "H", "D"),
    offset: i32("B + 1"),
    time: i32("L"),
    position_bias: f32("N"),
    time_bias: f32("M"),
    B: Size,
    L: Size,
    H: Size,
    N: Size,
    M: Size,
    WIDTH: Size,
    D: BlockSize,
    BLOCK: BlockSize,
):
    """o[i] = sum over j <= i of silu(q[i] . k[j] + position_bias[i - j] + time_bias[bucket]) / N * v[j],
        for each head

    within each sequence: items of sequence b are rows offset[b] to offset[b + 1] - 1 of q, k, v, time and o,
    and i and j count from its first. No sequence is longer than N; some are empty; the division is by N,
    whatever the sequence's length. bucket = min((time[i] - time[j]) // WIDTH, M - 1); times grow within a
    sequence. Program (b, h, n) owns items n * BLOCK and on of sequence b, head h, and loads no block of keys
    that lies wholly after them. A program that begins at or past its sequence's end stores nothing.
    silu(s) = s / (1 + exp(-s)). Contiguous; D is a power of two; full float32.
    """
    o, size = torch.zeros_like(q), torch.zeros_like(q)
    for first, end in zip(offset.tolist(), offset.tolist()[1:]):
        rows = slice(first, end)
        i = torch.arange(end - first)
        seen = i[:, None] >= i[None, :]
        bucket = ((time[rows, None] - time[None, rows]).clamp(min=0) // WIDTH).clamp(max=M - 1).long()
        bias = position_bias[(i[:, None] - i[None, :]).clamp(min=0)] + time_bias[bucket]
        for h in range(H):
            scores = q[rows, h] @ k[rows, h].T + bias
            absolute = q[rows, h].abs() @ k[rows, h].abs().T + bias.abs()
            weights = torch.where(seen, torch.nn.functional.silu(scores), 0.0) / N
            o[rows, h] = weights @ v[rows, h]
            size[rows, h] = torch.where(seen, silu_size(absolute, scores), 0.0) / N @ v[rows, h].abs()
    return dict(o=Expected(o, terms=N, amplified=D + 8, size=lambda: size))
