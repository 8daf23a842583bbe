"""Judges and hints of notebook 03, transformer. References are PyTorch's own, or slow and plain."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aiinfra.lab.exercise import close, exercise, require
from aiinfra.lab.judging import about, answered, explain, is_finite, number
from aiinfra.model import ModelConfig, Transformer


def _randn(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def _tensor(got: Any) -> Tensor:
    got = answered(got)
    require(isinstance(got, Tensor), f"return a tensor; you returned {type(got).__name__}.")
    return got


@exercise("03.bigram", hints=(
    "First a table of counts, row by the token before, column by the token after. Which two slices of "
    "`tokens` hold the befores and the afters?",
    "Start from a table of ones (each pair seen once more). The pairs are tokens[:-1] and tokens[1:]; "
    "the same pair may occur many times, so plain table[a, b] += 1 on tensors counts it once. Then "
    "divide each row by its own sum.",
    "table = torch.ones(V, V, dtype=torch.float64); for a, b in zip(tokens[:-1].tolist(), "
    "tokens[1:].tolist()): table[a, b] += 1; return table / table.sum(1, keepdim=True).",
))
def bigram(bigram):
    cases = (
        (torch.tensor([0, 1, 1, 2, 0, 1, 1, 1, 0]), 5),
        (torch.randint(7, (300,), generator=torch.Generator().manual_seed(1)), 7),
    )
    for tokens, size in cases:
        counts = torch.zeros(size, size, dtype=torch.float64)
        for before, after in zip(tokens[:-1].tolist(), tokens[1:].tolist()):
            counts[before, after] += 1
        want = _rows(counts + 1)
        with about(f"{len(tokens)} tokens of {size}"):
            got = _tensor(bigram(tokens.clone(), size))
            explain(got, _bigram_mistakes(counts), unless=want)
            close(got, want, "the probabilities")
    return "Softmax of a row that was learned for long enough is this row: the loss is lowest at the counts."


def _rows(table: Tensor) -> Tensor:
    return table / table.sum(1, keepdim=True)


def _bigram_mistakes(counts: Tensor) -> tuple[tuple[Tensor, str], ...]:
    more = counts + 1
    once = (counts > 0).double() + 1
    too_much = more / counts.sum(1, keepdim=True)
    return (
        (more, "these are counts. Divide each row by its sum."),
        (_rows(more.T), "before and after are exchanged: row a is what FOLLOWS a."),
        (_rows(more.T).T, "the columns add up to 1; each ROW must."),
        (more / more.sum(), "the whole table adds up to 1; each row must."),
        (_rows(counts), "one sighting more of every pair is missing: a pair never seen has 0, or a row NaN."),
        (_rows(once), "a pair that occurs many times counts once in yours: `table[a, b] += 1` with tensors "
                      "writes each place a single time."),
        (too_much, "a row adds up to more than 1: its V more sightings belong into the sum, too."),
    )


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    heads_first = [part.transpose(0, 1)[None] for part in (q, k, v)]
    shared = q.shape[1] != k.shape[1]
    y = F.scaled_dot_product_attention(*heads_first, is_causal=True, enable_gqa=shared)
    return y[0].transpose(0, 1)


@exercise("03.attention", hints=(
    "The page's `weights_of` and `attend` do this for SmolLM2's sizes. Which of their constants must "
    "come from the tensors here?",
    "H // K from q.shape[1] and k.shape[1]; repeat each key head that often, neighbours together "
    "(repeat_interleave). Scores [H, T, T] over √Dh, −inf above the diagonal, softmax over the last "
    "dimension, then the mixture of values.",
    "r = q.shape[1] // k.shape[1]; k, v = k.repeat_interleave(r, 1), v.repeat_interleave(r, 1); s = "
    "torch.einsum('thd,shd->hts', q, k) / q.shape[-1]**0.5; mask = torch.ones(T, T, "
    "dtype=torch.bool).triu(1); p = s.masked_fill(mask, -inf).softmax(-1); return "
    "torch.einsum('hts,shd->thd', p, v).",
))
def attention(attend):
    for length, heads, kv_heads, size in ((6, 6, 2, 8), (5, 4, 4, 3), (1, 2, 1, 4), (9, 3, 1, 16)):
        q = _randn(length, heads, size, seed=1)
        k = _randn(length, kv_heads, size, seed=2)
        v = _randn(length, kv_heads, size, seed=3)
        want = _attention(q, k, v)
        with about(f"T={length}, H={heads}, K={kv_heads}, Dh={size}"):
            got = _tensor(attend(q.clone(), k.clone(), v.clone()))
            _explain_attention(got, want, q, k, v)
            close(got, want, "the mixtures")
    far = _randn(7, 2, 4, seed=4, scale=40.0)
    got = _tensor(attend(far.clone(), far.clone(), far.clone()))
    require(is_finite(got), "NaN or infinity with large scores: subtract the largest first, or use softmax.")
    close(got, _attention(far, far, far), "with large scores")
    return "The same numbers as PyTorch's `scaled_dot_product_attention`, which never writes the matrix down."


def _mixture(scores: Tensor, v: Tensor, over: int = -1) -> Tensor:
    weights = scores.softmax(over)
    return torch.einsum("hts,shd->thd", weights, v)


def _scores(q: Tensor, k: Tensor) -> Tensor:
    return torch.einsum("thd,shd->hts", q, k) / math.sqrt(q.shape[-1])


def _explain_attention(got: Tensor, want: Tensor, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise Wrong with the reason, if it is a known one."""
    length, heads, size = q.shape
    times = heads // k.shape[1]
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    k_turns, v_turns = k.repeat(1, times, 1), v.repeat(1, times, 1)
    k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
    root = math.sqrt(size)
    scores = _scores(q, k)
    hidden = scores.masked_fill(future, -torch.inf)
    at_zero = scores.masked_fill(future, 0)
    in_turns = _scores(q, k_turns).masked_fill(future, -torch.inf)
    by_width = hidden / math.sqrt(heads)
    explain(got, (
        (_mixture(scores, v), "tokens see the future: the mask is missing."),
        (_mixture(hidden * root, v), f"the scores are not divided by √Dh = √{size}."),
        (_mixture(hidden / root, v), f"the scores are divided by Dh = {size}, and not by its root."),
        (_mixture(by_width, v), "the scores are divided by the root of H·Dh; a head has Dh numbers."),
        (_mixture(in_turns, v_turns), "query head h uses key head h % K in yours; neighbours share one: h // "
                                      "(H / K). That is repeat_interleave."),
        (_mixture(hidden, v, 1), "softmax runs over the tokens that look. Each row must add up to 1."),
        (_mixture(at_zero, v), "the future has the score 0, and so the weight e⁰: it must have −inf."),
    ), unless=want)
    require(is_finite(got),
            "NaN. Does a row hide everything, the token itself too? It sees itself: triu(1), not triu(0).")


def _turned(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Each pair as a complex number: a turn is a multiplication."""
    left, right = x.chunk(2, -1)
    turned = torch.complex(left, right) * _turns(x, positions, theta)
    return torch.cat([turned.real, turned.imag], -1)


def _turns(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Complex numbers [T, 1, Dh/2] of size 1."""
    even = torch.arange(0, x.shape[-1], 2, dtype=torch.float64)
    speed = theta ** (-even / x.shape[-1])
    angle = positions[:, None, None] * speed
    return torch.polar(torch.ones_like(angle), angle)


@exercise("03.turn", hints=(
    "For each token and each pair there is one angle, the same for all heads. What shape must the "
    "angles have, so that they broadcast against half of x, [T, heads, Dh/2]?",
    "angle = positions[:, None, None] · theta ** (−j / (Dh/2)) for j = 0 … Dh/2 − 1: [T, 1, Dh/2]. "
    "With left = x[..., :half] and right = x[..., half:], a turn makes (left·cos − right·sin, "
    "right·cos + left·sin).",
    "half = x.shape[-1] // 2; speed = theta ** (−torch.arange(half) / half); angle = positions[:, "
    "None, None] · speed; left, right = x[..., :half], x[..., half:]; return "
    "torch.cat((left·angle.cos() − right·angle.sin(), right·angle.cos() + left·angle.sin()), −1).",
))
def turn(turn):
    cases = (
        (torch.arange(6), 10_000.0, 8),
        (torch.tensor([7, 0, 300, 2]), 100.0, 4),
        (torch.tensor([4000]), 100_000.0, 64),
    )
    for positions, theta, size in cases:
        x = _randn(len(positions), 3, size, seed=size)
        want = _turned(x, positions, theta)
        with about(f"positions {positions.tolist()}, Dh = {size}"):
            got = _tensor(turn(x.clone(), positions.clone(), theta))
            explain(got, _turn_mistakes(x, positions, theta), unless=want, rtol=1e-4)
            # Angles in float32 are as good as the model's own: 4,000 radians to 7 digits.
            close(got, want, "the turned x", rtol=1e-3, atol=2e-3)
    return "A turn is a multiplication by a complex number of size 1: in q·k only the distance is left."


def _turn_mistakes(x: Tensor, positions: Tensor, theta: float) -> tuple[tuple[Tensor, str], ...]:
    pairs = torch.complex(x[..., ::2], x[..., 1::2])
    turned = pairs * _turns(x, positions, theta)
    neighbours = torch.view_as_real(turned).flatten(-2)
    counted = torch.arange(len(positions))
    return (
        (_turned(x, -positions, theta), "the turn goes clockwise: (1, 0) must go to (cos, +sin)."),
        (neighbours, "numbers 2j and 2j + 1 are paired in yours; in this family j goes with j + Dh/2."),
        (_turned(x, positions, theta**0.5), "the speeds fall too slowly: θ^(−j/Dh). It is −2j/Dh."),
        (_turned(x, positions, theta**2), "the speeds fall too fast: θ^(−4j/Dh). It is −2j/Dh."),
        (_turned(x, positions, 1.0), "all pairs turn at the same speed in yours."),
        (_turned(x, counted, theta), "you turn by 0, 1, 2, …; the positions are given, with gaps."),
        (_turned(x, positions, 1 / theta), "the speeds rise: the exponent's minus sign is missing."),
    )


_MODELS = (
    {"V": 50, "D": 12, "L": 3, "H": 4, "K": 2, "Dh": 6, "F": 20},
    {"V": 30, "D": 8, "L": 1, "H": 2, "K": 2, "Dh": 4, "F": 16},
    {"V": 49_152, "D": 576, "L": 30, "H": 9, "K": 3, "Dh": 64, "F": 1536},
)


def _said(shape: dict[str, int]) -> str:
    return ", ".join(f"{name}={value}" for name, value in shape.items())


def _built(V: int, D: int, L: int, H: int, K: int, Dh: int, F: int, tied: bool) -> int:
    """The parameters of a model that is really made, on a device without memory."""
    config = ModelConfig(vocab_size=V, hidden_size=D, num_hidden_layers=L, num_attention_heads=H,
                         num_key_value_heads=K, head_dim=Dh, intermediate_size=F, tie_word_embeddings=tied)
    with torch.device("meta"):
        model = Transformer(config)
    return sum(parameter.numel() for parameter in model.parameters())


@exercise("03.parameters", hints=(
    "Go through the stations of the page and write each matrix down as rows × columns. Which of them "
    "exist once, and which once a layer?",
    "A layer: q is D × H·Dh, k and v are D × K·Dh each, the one behind is H·Dh × D; SwiGLU has three "
    "matrices of D × F; two norms of D. Outside: V × D (once or twice), one norm of D.",
    "layer = D·(H + 2·K)·Dh + H·Dh·D + 3·D·F + 2·D; return V·D·(1 if tied else 2) + L·layer + D.",
))
def parameters(count):
    for shape in _MODELS:
        for tied in (True, False):
            want = _built(**shape, tied=tied)
            with about(f"{_said(shape)}, tied={tied}"):
                got = number(count(**shape, tied=tied), "the parameters")
                explain(got, _parameter_mistakes(want, tied, **shape), unless=want, rtol=1e-12)
                require(got == want, f"you have {got:,}; it has {want:,}.")
    return "134,515,008 for SmolLM2-135M, to the last one."


def _parameter_mistakes(want: int, tied: bool, V: int, D: int, L: int, H: int, K: int, Dh: int,
                        F: int) -> tuple[tuple[int, str], ...]:
    other = want + V * D if tied else want - V * D
    return (
        (other, "the last matrix: tied, it is the table and counts once; not tied, it is a second one."),
        (want + L * 2 * D * (H - K) * Dh, "k and v have K heads, not H: that is what GQA saves."),
        (want - L * D * F, "SwiGLU has three matrices: gate, up and down. You count two."),
        (want - D, "the last norm is missing."),
        (want - L * 2 * D, "the two norms of each layer are missing."),
        (want - (2 * L + 1) * D, "the norms are missing: two a layer, and the last one."),
        (want - L * H * Dh * D, "the matrix behind attention is missing: H·Dh × D."),
        (want + L * (D * D - H * Dh * D), "the matrix behind attention is H·Dh × D, not D × D."),
    )


@exercise("03.forward_flops", hints=(
    "Two kinds of work. For the matrices: which of the parameters take part in a product for each "
    "token, and which are only looked up? For attention: how many pairs (who looks, at whom) are "
    "there?",
    "Matrices: 2·T FLOPs for each number in them: the layers' and the last one of V × D (also if it "
    "is tied: it is used); the look-up at the beginning is free. Pairs: T·(T + 1)/2, and for each, in "
    "each of L·H heads, a product of Dh numbers for the score, and Dh again for the mixture.",
    "layer = D·(H + 2·K)·Dh + H·Dh·D + 3·D·F; pairs = T·(T + 1)//2; return 2·T·(L·layer + V·D) + "
    "4·L·H·Dh·pairs.",
))
def forward_flops(count):
    for shape in _MODELS:
        for length in (5, 1, 2048):
            want = _worked(length, **shape)
            with about(f"T={length}, {_said(shape)}"):
                got = number(count(length, **shape), "the FLOPs")
                explain(got, _flops_mistakes(want, length, **shape), unless=want, rtol=1e-12)
                require(math.isclose(got, want, rel_tol=1e-12), f"you have {got:,.0f}; it is {want:,.0f}.")
    return "For 2,048 tokens of SmolLM2-135M: 0.7 TFLOP, of which a fifth is scores and mixtures."


def _worked(length: int, V: int, D: int, L: int, H: int, K: int, Dh: int, F: int) -> int:
    """Matrix by matrix, pair by pair."""
    total = 0
    for inputs, outputs in ((D, H * Dh), (D, K * Dh), (D, K * Dh), (H * Dh, D), (D, F), (D, F), (F, D)):
        total += L * 2 * length * inputs * outputs
    seen = sum(range(1, length + 1))
    scores = mixture = L * H * 2 * Dh * seen
    return total + scores + mixture + 2 * length * D * V


def _flops_mistakes(want: int, length: int, V: int, D: int, L: int, H: int, K: int, Dh: int,
                    F: int) -> tuple[tuple[float, str], ...]:
    pairs = length * (length + 1) // 2
    a_pair = 4 * L * H * Dh
    of_pairs = a_pair * pairs
    table = 2 * length * V * D
    norms = 2 * length * (2 * L + 1) * D
    return (
        (want / 2, "half: a product and a sum count as two."),
        (want + a_pair * (length**2 - pairs), "you count T² pairs; T·(T + 1)/2 may see each other."),
        (want - a_pair * length, "a token sees itself, too: T·(T + 1)/2 pairs."),
        (want - of_pairs, "scores and mixtures are missing: the part without weights."),
        (want - of_pairs / 2, "scores and mixtures are two things: 2·Dh FLOPs each for every pair and head."),
        (want - of_pairs + of_pairs * K / H, "each of H query heads has scores of its own, though K hold the "
                                             "keys."),
        (want - table, "the last matrix is missing. Tied or not, every token is multiplied by it."),
        (want + table, "the look-up of a row at the beginning is no product: it counts nothing."),
        (want - table + 2 * V * D, "logits are wanted for every token, not only for the last one."),
        (want + norms, "norms count nothing here."),
    )


@exercise("03.text_loss", hints=(
    "Row t was computed from tokens 0 … t. Whose cost can be read from row 0? From the last row?",
    "Row t holds the scores for token t + 1: rows logits[:-1] belong to tokens[1:], T − 1 of them. "
    "log_softmax(−1) gives ln p without overflow; take one number from each row.",
    "log_p = logits.log_softmax(−1); return −log_p[:-1].gather(1, tokens[1:, None]).mean(). Or "
    "F.cross_entropy(logits[:-1], tokens[1:]).",
))
def text_loss(loss):
    cases = (
        (_randn(6, 10, seed=1, scale=3.0), torch.tensor([1, 0, 9, 9, 4, 2]), "6 tokens"),
        (_randn(2, 5, seed=2), torch.tensor([3, 3]), "2 tokens"),
        (_randn(8, 12, seed=3, scale=500.0), torch.arange(8), "scores of a thousand"),
    )
    for logits, tokens, case in cases:
        want = F.cross_entropy(logits[:-1], tokens[1:])
        with about(case):
            got = answered(loss(logits.clone(), tokens.clone()))
            explain(got, _loss_mistakes(logits, tokens, want), unless=want)
            close(got, want, "the loss")
    return "Shifted by one, and stable: this is the number that page 04 makes smaller."


def _loss_mistakes(logits: Tensor, tokens: Tensor, want: Tensor) -> tuple[tuple[Tensor, str], ...]:
    count = len(tokens) - 1
    total = want * count
    seen = F.cross_entropy(logits, tokens)
    backwards = F.cross_entropy(logits[1:], tokens[:-1])
    return (
        (seen, "row t is held against token t, which it has already seen. It predicts token t + 1."),
        (backwards, "shifted the wrong way: row t predicts the token AFTER t."),
        (total, "this is the sum; the mean over the predicted tokens is wanted."),
        (total / len(tokens), f"divided by T = {len(tokens)}, but only {count} tokens were predicted: nobody "
                              "predicts the first."),
        (want / math.log(2), "these are bits; nats are wanted."),
        (-want, "the sign: a cost is −ln p, and positive."),
    )
