"""Judges and hints of notebook 10, fused kernels. Each makes its own data, in float64 where values count."""

import math

import torch
import torch.nn.functional as F

from aiinfra.kernels import swiglu as swiglu_kernel
from aiinfra.kernels.hstu_bias import time_buckets
from aiinfra.lab.exercise import Wrong, close, exercise, require
from aiinfra.lab.judging import about, explain, pair, several


def _randn(*shape: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def _partial(scores: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """m [], l [], o [Dv] of one worker's keys; -inf, 0 and zeros where it has none."""
    if not len(scores):
        nothing = torch.tensor(-math.inf, dtype=torch.float64)
        return nothing, torch.tensor(0.0, dtype=torch.float64), values.sum(0)
    m = scores.max()
    weights = torch.exp(scores - m)
    return m, weights.sum(), weights @ values


@exercise("10.merge", hints=(
    "Both partials are sums of exp(score − their own m). Before two sums can be added they must have the "
    "same m.",
    "The common m is the larger one. A partial moves from its own m to the common one by the factor exp(own "
    "m − common m), which is never above 1. The factor applies to l and to o alike. Is there a case in which "
    "it is NaN?",
    "m = torch.maximum(a[0], b[0]); two empty workers leave m at −inf, and −inf − (−inf) is NaN: subtract "
    "`base = torch.where(m == -inf, 0, m)` instead. fa = exp(a[0] − base), fb = exp(b[0] − base); "
    "return m, a[1]·fa + b[1]·fb, a[2]·fa + b[2]·fb.",
))
def merge(merge):
    scores = _randn(12, seed=1, scale=40.0) + 700.0              # exp(700 + 40) is beyond float64
    values = _randn(12, 3, seed=2)
    whole = _partial(scores, values)
    cases = (
        (5, "5 keys and 7 keys"),
        (1, "1 key and 11 keys"),
        (12, "12 keys and none"),
    )
    for cut, case in cases:
        a = _partial(scores[:cut], values[:cut])
        b = _partial(scores[cut:], values[cut:])
        for first, second in ((a, b), (b, a)):
            mine = [tuple(part.clone() for part in worker) for worker in (first, second)]
            got = merge(*mine)
            several(got, 3, "return three things: (m, l, o).")
            changed = not all(map(torch.equal, [*mine[0], *mine[1]], [*first, *second]))
            require(not changed, "your merge has changed what it was given: `x *= …` and the like write into "
                                 "the worker's own tensors. Make new ones: x * …")
            _judge_merged(got, whole, first[1] + second[1], case)
    empty = _partial(scores[:0], values[:0])
    m, l, o = map(torch.as_tensor, merge(empty, empty))
    require(not _has_nan(l, o) and m == -math.inf and l == 0,
            "two workers without a key give NaN: −inf − (−inf). They must stay empty: m = −inf, l = 0, o = "
            "0.")
    return ("Any cut, any order, empty workers too: this merge is what lets one long context be split over "
            "many programs.")


def _judge_merged(got, whole: tuple[torch.Tensor, ...], plain_sum: torch.Tensor, case: str) -> None:
    """Raise Wrong unless it is the partial of all keys. `plain_sum`: both l, added as they are."""
    m, l, o = map(torch.as_tensor, got)
    require(not _has_nan(m, l, o),
            f"NaN when {case} are merged: something like −inf − (−inf), or inf / inf.")
    close(m, whole[0], f"m of {case}")
    explain(l, [(plain_sum, "l is the plain sum: the two were counted against different maxima.")],
            unless=whole[1])
    close(l, whole[1], f"l of {case}")
    close(o, whole[2], f"o of {case} (o is the sum of weight · value, not yet divided by l)")


def _has_nan(*tensors: torch.Tensor) -> bool:
    return any(bool(torch.isnan(tensor).any()) for tensor in tensors)


@exercise("10.swiglu_bytes", hints=(
    "Go through the operations one by one. Each reads all of its inputs and writes its output. How many "
    "values is that?",
    "F.silu(gate): one tensor of tokens·features in, one out. The product: two in, one out. Fused, silu's "
    "result never goes to memory.",
    "passes: composed 2 + 3, fused 2 + 1. Bytes = passes · tokens · features · bytes_per_value.",
))
def swiglu_bytes(count):
    for tokens, features, size in ((7, 40, 4), (4096, 14336, 2)):
        got = count(tokens, features, size)
        pair(got, "return two numbers: (composed, fused).")
        one = tokens * features * size                           # bytes of a pass
        composed, fused = (float(value) / one for value in got)
        require(fused <= composed,
                "the fused kernel moves MORE than the composition here. Is the order (composed, fused)?")
        _judge_width(composed, fused, size)
        require(not math.isclose(composed, 4),
                "composed: 4 passes. The product reads TWO tensors: silu's result and `up`.")
        require(math.isclose(composed, 5), f"composed: you have {composed:.3g} passes over [tokens, "
                                           "features].")
        require(not math.isclose(fused, 2), "fused: 2 passes. It reads two tensors, gate and up, and writes "
                                            "one.")
        want = swiglu_kernel.cost(tokens, features, size).bytes
        require(math.isclose(fused * one, want), f"fused: you have {fused:.3g} passes over [tokens, "
                                                 "features].")
    return ("5 passes become 3. A feed-forward layer of Llama 3 8B saves 235 MB for every 4,096 tokens in "
            "bfloat16.")


def _judge_width(composed: float, fused: float, size: int) -> None:
    """Raise Wrong if the passes are right, and only the bytes of a value are not."""
    width = size * composed / 5
    if math.isclose(width, size) or not math.isclose(3 * composed, 5 * fused):
        return
    require(not math.isclose(width, 1), "these are values, not bytes: bytes_per_value is missing.")
    raise Wrong(f"the passes are right, but you count {width:.3g} bytes for each value: bytes_per_value is "
                f"{size} here.")


def _count_tiles(tokens: int, rows: int, keys: int) -> tuple[int, int]:
    """(whole, diagonal) by looking at every tile of the mask: slow, and hard to get wrong."""
    seen = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    whole = diagonal = 0
    for strip in seen.split(rows, 0):
        for tile in strip.split(keys, 1):
            if tile.all():
                whole += 1
            elif tile.any():
                diagonal += 1
    return whole, diagonal


@exercise("10.tiles", hints=(
    "Take one strip of query rows, from i to i + rows. Which is the last key that any of its rows sees? And "
    "the first row?",
    "In that strip a tile of keys from j on is visited if j ≤ the strip's last row, and needs no mask if its "
    "last key is not after the strip's FIRST row. The last strip may be shorter than the others, and so may "
    "the last tile.",
    "Loop: for i in range(0, tokens, rows): last = min(i + rows, tokens) − 1; for j in range(0, last + 1, "
    "keys): it is whole if min(j + keys, tokens) − 1 <= i, else diagonal. Count both.",
))
def tiles(count):
    cases = (
        (256, 64, 64),
        (1000, 128, 64),
        (300, 32, 128),
        (65, 64, 16),
        (1, 16, 16),
    )
    for tokens, rows, keys in cases:
        got = count(tokens, rows, keys)
        pair(got, "return two numbers: (whole, diagonal).")
        with about(f"{tokens} tokens in tiles of {rows} × {keys}"):
            _judge_tiles(got, tokens, rows, keys)
    return "With small tiles the visited share goes to one half, and the masked share to nothing."


def _judge_tiles(got, tokens: int, rows: int, keys: int) -> None:
    whole, diagonal = _count_tiles(tokens, rows, keys)
    visited = whole + diagonal
    square = math.ceil(tokens / rows) * math.ceil(tokens / keys)
    mine = sum(got)
    require(mine != square or square == visited,
            f"you visit all {square} tiles. Those above the diagonal hold nothing and are never loaded.")
    require(got[1] != 0 or diagonal == 0,
            f"no tile needs a mask? The diagonal runs through {diagonal} of them.")
    require(int(mine) == visited, f"{visited} tiles are visited; you have {mine:g}.")
    require(int(got[0]) == whole,
            f"{whole} tiles need no mask; you have {got[0]:g}. A tile is whole if its LAST key is seen by "
            "the strip's FIRST row.")


@exercise("10.silu_backward", hints=(
    "Name the stations: s = q kᵀ, a = silu(s)/n below the diagonal, y = a v. Walk back from dy to a, to s, "
    "to q and k.",
    "y = a v gives dv = aᵀ dy and da = dy vᵀ. silu(s) = s·σ(s), so its slope is σ(s)·(1 + s·(1 − σ(s))), and "
    "ds = da · slope / n where the mask let something through, else 0.",
    "gate = torch.sigmoid(s); a = (s·gate).tril()/n; da = dy @ v.T; ds = (da·gate·(1 + s·(1 − "
    "gate))).tril()/n; return ds @ k, ds.T @ q, a.T @ dy.",
))
def silu_backward(backward):
    for n, size, padded in ((6, 3, 6), (9, 4, 16)):
        q, k, v, dy = (_randn(n, size, seed=seed) for seed in range(n, n + 4))
        leaves = [tensor.clone().requires_grad_() for tensor in (q, k, v)]
        scores = leaves[0] @ leaves[1].T
        y = (F.silu(scores) / padded).tril() @ leaves[2]
        want = torch.autograd.grad(y, leaves, dy)
        got = _by_hand(backward, q, k, v, dy, padded)
        several(got, 3, "return three tensors: (dq, dk, dv).")
        _explain_backward(got, want, q, k, v, dy, padded)
        for mine, right, name in zip(got, want, ("dq", "dk", "dv")):
            close(mine, right, name)
    return "The same three lines, tile by tile, are the column kernel and the row kernel."


def _by_hand(backward, *tensors):
    """What the answer returns, where autograd keeps no record. Raises Wrong if the answer asks for one."""
    with torch.inference_mode():
        copies = [part.clone() if torch.is_tensor(part) else part for part in tensors]
        try:
            return backward(*copies)
        except RuntimeError as error:
            if "does not require grad" in str(error):
                raise Wrong("by hand, no autograd: here it keeps no record, so it has nothing to walk "
                            "back.") from None
            raise


def _explain_backward(got, want, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dy: torch.Tensor,
                      n: int) -> None:
    """Raise Wrong with the reason, if it is a known one. Rows i of all matrices are of query i."""
    s = q @ k.T
    gate = torch.sigmoid(s)
    weights = s * gate / n
    scaled = F.silu(s / math.sqrt(q.shape[1])) / n
    slope = gate * (1 + s * (1 - gate))
    da = dy @ v.T
    ds = (da * slope).tril() / n
    dq, dk, dv = want
    after = "row i is influenced by keys after i. The mask holds in the backward pass, too."
    turned = "the matrix is not turned around: column j of it, over all queries, makes row j of the result."
    explain(got[2], (
        (weights.T @ dy, f"dv: {after}"),
        (weights.tril() @ dy, f"dv: {turned}"),
        (scaled.tril().T @ dy, f"dv: your scores are divided by √{q.shape[1]}; here, only the weights by n."),
    ), unless=dv)
    explain(got[0], (
        (dk, "dq and dk are exchanged: return (dq, dk, dv)."),
        ((da * slope / n) @ k, f"dq: {after}"),
        ((da * gate).tril() / n @ k,
         "dq: the slope of s·σ(s) has two terms, by the product rule; yours is σ(s) alone."),
        (ds.T @ k, "dq: ds is turned around here; row i of ds, over all keys, makes row i of dq."),
    ), unless=dq)
    explain(got[1], (
        (ds @ q, f"dk: {turned}"),
        ((da * slope / n).T @ q, f"dk: {after}"),
    ), unless=dk)
    for mine, right, name in zip(got, want, ("dq", "dk", "dv")):
        by_tokens = right * n / len(q)
        explain(mine, (
            (n * right, f"{name} is {n} times too large: the 1/n of the forward pass is missing."),
            (right / n, f"{name} is {n} times too small: 1/n is there twice."),
            (by_tokens, f"{name}: you divide by the {len(q)} tokens; n is {n} here, and may be larger."),
        ), unless=right)


_EDGES = [math.ceil(math.exp(0.301 * b)) for b in range(4, 60)]
_GAPS = {
    "a gap of 0": [0],
    "gaps of 1 and 2 s": [1, 2],
    "negative gaps": [-1, -86_400, -3],
    "a minute, a day, a year": [60, 86_400, 31_536_000],
    "the longest gaps": [2**55, 2**61, 2**62],
    "the first second of each bucket": _EDGES,
    "the last second of each bucket": [edge - 1 for edge in _EDGES],
}


@exercise("10.buckets", hints=(
    "Work outwards from the logarithm: what must hold for its argument, what for its result, and what type "
    "is wanted?",
    "|dt| first, then at least 1 (the logarithm of 0 is −inf), then log(…) / 0.301, rounded DOWN, and never "
    "above 128. In float32 some edges fall on the wrong side: convert to float64 first.",
    "(dt.abs().clamp(min=1).double().log() / 0.301).floor().long().clamp(max=128)",
))
def buckets(bucket):
    for name, values in _GAPS.items():
        gaps = torch.tensor(values)
        got = bucket(gaps.clone())
        want = time_buckets(gaps)
        require(isinstance(got, torch.Tensor), f"return a tensor of buckets; you returned "
                                               f"{type(got).__name__}.")
        require(not got.is_floating_point(),
                f"buckets index a table: they must be integers, yours are {got.dtype}.")
        require(got.shape == want.shape,
                f"shape {list(got.shape)}, but one bucket for each of {len(gaps)} gaps is wanted.")
        for seconds, mine, right in zip(values, got.tolist(), want.tolist()):
            if mine != right:
                off = f"{name}: {seconds:,} s is in bucket {right}, you say {mine}."
                require(mine != _in_float32(seconds), f"{off} That is what a logarithm in float32 gives: it "
                                                      "rounds over the edge. Convert to float64 first.")
                raise Wrong(off)
    return "From one second to more than a billion years in 129 buckets, each 1.35 times as long as the last."


def _in_float32(seconds: int) -> int:
    """The bucket of a gap if its logarithm is rounded to float32."""
    length = torch.tensor(seconds, dtype=torch.float32).abs().clamp(min=1)
    return min(128, int(length.log() / 0.301))
