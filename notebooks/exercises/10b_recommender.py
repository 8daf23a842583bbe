"""Judges and hints of notebook 10b, the recommender. Each makes its own data, in float64 where it counts."""

import math

import torch
import torch.nn.functional as F
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from aiinfra.kernels.hstu_bias import next_times, time_buckets
from aiinfra.lab.exercise import Wrong, close, exercise, require
from aiinfra.lab.judging import explain, pair, several


def _randn(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


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


@exercise("10b.buckets", hints=(
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


_USERS = {
    "one user": [4],
    "three users": [3, 1, 5],
    "users without an event between others": [2, 0, 0, 3, 0],
    "a user without an event in front": [0, 4],
    "users of one event": [1, 1, 1],
}


@exercise("10b.next_event", hints=(
    "Without users it is the times moved up by one place. What goes wrong at the border between two users?",
    "Move everything up by one, then mend each user's last row, which is offsets[b + 1] − 1. Which users "
    "have no last row?",
    "after = seconds.roll(-1); last = offsets[1:].long() - 1; last = last[offsets.diff() > 0]; after[last] = "
    "seconds[last]; return after. (A loop over users with torch.cat is as good.)",
))
def next_event(following):
    for name, lengths in _USERS.items():
        sizes = torch.tensor(lengths)
        offsets = F.pad(sizes.cumsum(0), (1, 0)).int()
        generator = torch.Generator().manual_seed(len(lengths))
        seconds = torch.randint(1, 10**9, (int(sizes.sum()),), generator=generator)
        users = seconds.split(lengths)
        want = torch.cat([next_times(user) for user in users if len(user)])
        mine, bounds = seconds.clone(), offsets.clone()
        got = following(mine, bounds)
        unchanged = torch.equal(mine, seconds) and torch.equal(bounds, offsets)
        require(unchanged, f"{name}: you have changed what you were given. Make a new tensor.")
        _judge_next(got, want, seconds, offsets, name)
    return ("Nobody is dated by a stranger: that would have been a leak between users, and no test of shapes "
            "sees it.")


def _judge_next(got, want: torch.Tensor, seconds: torch.Tensor, offsets: torch.Tensor, name: str) -> None:
    require(isinstance(got, torch.Tensor), f"return a tensor of times; you returned {type(got).__name__}.")
    require(got.dtype == torch.int64, f"times are int64, and a {got.dtype} may not hold them exactly.")
    require(got.shape == want.shape,
            f"{name}: shape {list(got.shape)}, but {len(want)} events want one time each.")
    last = offsets[1:].long() - 1
    for row in range(len(want)):
        if got[row] != want[row]:
            is_last = bool((last == row).any())
            stranger = is_last and row + 1 < len(seconds) and got[row] == seconds[row + 1]
            require(not stranger,
                    f"{name}: row {row} is a user's last event, and you date it by the next user's.")
            require(got[row] != seconds[0] or not is_last,
                    f"{name}: row {row}, the last one, has the time of row 0.")
            raise Wrong(f"{name}: row {row} is dated {int(want[row])}, you say {int(got[row])}.")


@exercise("10b.padded_scores", hints=(
    "Two counts: the squares that the padded batch computes, and the pairs that exist. How many pairs j ≤ i "
    "has one history of n events?",
    "Row i sees i + 1 events when counted from 0, so a history of n has 1 + 2 + … + n pairs. The padded "
    "batch has for every user, empty ones too, the square of the longest.",
    "return len(lengths) * max(lengths) ** 2, sum(n * (n + 1) // 2 for n in lengths)",
))
def padded_scores(count):
    for lengths in ([5], [3, 1], [2, 0, 4], [24] * 8, [4096, *[30] * 63], [0, 0]):
        got = count(list(lengths))
        pair(got, "return two numbers: (computed, needed).")
        computed = len(lengths) * max(lengths) ** 2
        needed = sum(n * (n + 1) // 2 for n in lengths)
        real = sum(n > 0 for n in lengths)
        shown = lengths if len(lengths) < 5 else f"{len(lengths)} users, the longest of {max(lengths)}"
        squares = sum(n * n for n in lengths)
        explain(got, (
            ((needed, computed), "is the order (computed, needed)?"),
            ((squares, needed), "computed: each history is padded to the LONGEST of the batch."),
            ((max(lengths) ** 2 * real, needed), "computed: an empty history is padded like the others."),
            ((computed, squares), "needed: only pairs with j ≤ i; nobody sees the future."),
            ((computed, squares - needed), "needed: an event also sees itself."),
        ), unless=(computed, needed))
        close(got, (computed, needed), f"{shown}: (computed, needed)")
    return ("One history of 4,096 among 63 of 30: 1,074 million scores are computed, and 8.4 million are "
            "needed. Jagged kernels were not invented for elegance.")


@exercise("10b.silu_backward", hints=(
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


class _Watch(TorchFunctionMode):
    """Notes whether any operation is given a tensor that autograd keeps a record of, in any of its forms."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded = False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        self.recorded |= any(map(_is_recorded, tensors))
        return func(*args, **(kwargs or {}))


def _is_recorded(tensor: torch.Tensor) -> bool:
    """By requires_grad, by torch.func (which wraps what it follows), or forwards, within a level of duals."""
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    return tensor.requires_grad or wrapped or forward_ad._current_level >= 0


def _by_hand(backward, *tensors):
    """What the answer returns. Raises Wrong if it lets autograd do the work."""
    watch = _Watch()
    try:
        with watch:
            return backward(*(part.clone() if torch.is_tensor(part) else part for part in tensors))
    finally:
        if watch.recorded:
            raise Wrong("by hand, no autograd: you let PyTorch keep a record and walk it back.")


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
