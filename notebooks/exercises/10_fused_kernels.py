"""Judges and hints of notebook 10, fused kernels. Each makes its own data, in float64 where values count."""

import math

import torch

from aiinfra.kernels import swiglu as swiglu_kernel
from aiinfra.lab.exercise import Wrong, close, exercise, require
from aiinfra.lab.judging import EveryTensor, about, explain, pair, several


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


@exercise("10.flash_dq", hints=(
    "It is `flash_dk_dv` with its two loops exchanged: outside the strips of rows, which are yours, inside "
    "the tiles of keys that they see.",
    "For rows i: i + tile, walk j = 0, tile, … up to the strip's last row. In each tile make p = exp(scale·q "
    "kᵀ − lse) again, 0 where the key is after the row; ds = p·(do vᵀ − delta); dq grows by scale·ds k.",
    "for i in range(0, len(q), tile): rows = slice(i, i + tile); for j in range(0, i + tile, tile): keys = "
    "slice(j, j + tile); … dq[rows] += scale * ds @ k[keys]. A slice beyond the end is just shorter.",
))
def flash_dq(walk):
    for n, size, tile in ((48, 4, 16), (50, 6, 16), (40, 3, 7), (5, 4, 64)):
        q, k, v, do = (_randn(n, size, seed=seed + n) for seed in range(4))
        case = f"{n} tokens in tiles of {tile}"
        stations = _Stations(q, k, v, do)
        watch = _NoSquare(most=max(n * size, 2 * tile * tile, n), square=n * n // 2)
        with watch, torch.no_grad():
            got = walk(*(part.clone() for part in (q, k, v, do, stations.lse, stations.delta)), tile)
        with about(case):
            _explain_dq(got, stations)
            close(got, stations.dq, "dq")
            require(not watch.largest,
                    f"you make a tensor of {watch.largest:,} values; all {n} × {n} pairs are {n * n:,}. Only "
                    "a tile of them may exist at a time.")
    return "No weight was remembered, and no program had to wait: each strip of dq has one owner."


class _NoSquare(EveryTensor):
    """Remembers the largest tensor of at least `square` values that is also above `most`."""

    def __init__(self, most: int, square: int) -> None:
        super().__init__()
        self.limit = max(most, square - 1)
        self.largest = 0

    def look(self, tensor: torch.Tensor) -> None:
        if tensor.numel() > self.limit:
            self.largest = max(self.largest, tensor.numel())


class _Stations:
    """Causal attention of one head, back to front; whole matrices, by the formula."""

    def __init__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, do: torch.Tensor) -> None:
        self.k = k
        self.scale = q.shape[1] ** -0.5
        future = torch.ones(len(q), len(k), dtype=torch.bool).triu(1)
        scores = (self.scale * q @ k.T).masked_fill(future, -torch.inf)
        self.lse = scores.logsumexp(1, keepdim=True)
        self.p = torch.exp(scores - self.lse)
        self.unmasked = torch.exp(self.scale * q @ k.T - self.lse)
        self.delta = (do * (self.p @ v)).sum(1, keepdim=True)
        self.dp = do @ v.T
        self.ds = self.p * (self.dp - self.delta)
        self.dq = self.scale * self.ds @ k
        self.dk = self.scale * self.ds.T @ q


def _explain_dq(got, right: _Stations) -> None:
    """Raise Wrong with the reason, if it is a known one."""
    everywhere = right.unmasked * (right.dp - right.delta)
    explain(got, (
        (right.dk, "that is dk: ds is turned around here. Row i of ds, over its keys, makes row i of dq."),
        (right.dq / right.scale, "the scale 1/√Dh is missing in the last product."),
        (right.scale * (right.p * right.dp) @ right.k,
         "delta is missing: a higher score also lowers the other weights of its row."),
        (right.scale * everywhere @ right.k,
         "row i is influenced by keys after i. The mask holds in the backward pass, too."),
    ), unless=right.dq)
