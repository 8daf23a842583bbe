"""What the attention puzzles compute, in plain torch, and how rounding errors grow. Notebook 10."""

from collections.abc import Mapping

import torch

EXP = 200  # roundings of exp(s - m) over float32's range, and of rescaling


def amplified_by(width: int, score_size: torch.Tensor) -> int:
    """An error in a score, a sum of `width` products, is a relative error in exp(score), and in the total."""
    return EXP + int(2 * width * score_size.max())


def angles_met(tensors: Mapping[str, torch.Tensor], sizes: Mapping[str, float]) -> dict[str, int]:
    """How many angles a kernel must read: those of the positions that there are."""
    values = len(tensors["position"].unique()) * (sizes["D"] // 2)
    return dict(cos=values, sin=values)


def biases_met(tensors: Mapping[str, torch.Tensor], sizes: Mapping[str, float]) -> dict[str, int]:
    """How many biases a kernel must read: the distances in the longest sequence, and at least one bucket."""
    return dict(position_bias=int(tensors["offset"].diff().max()), time_bias=1)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> tuple[torch.Tensor, ...]:
    """Causal attention of [H, T, D] with as many key heads as query heads: o, lse, p, sizes of the scores."""
    scores = q @ k.transpose(1, 2) * scale
    hidden = torch.ones(q.shape[1], q.shape[1]).triu(1).bool()
    scores = scores.masked_fill(hidden, -torch.inf)
    lse = torch.logsumexp(scores, 2)
    p = torch.exp(scores - lse[:, :, None])
    return p @ v, lse, p, (q.abs() @ k.abs().transpose(1, 2) * scale)


def saved_by_forward(tensors: dict[str, torch.Tensor], sizes: Mapping[str, float],
                     rng: torch.Generator) -> dict[str, torch.Tensor]:
    """What the forward pass leaves for the backward: lse, and delta = the row sums of do * o."""
    q, k, v, do = (tensors[name].double() for name in ("q", "k", "v", "do"))
    o, lse, _, _ = attend(q, k, v, sizes["sm_scale"])
    return tensors | dict(lse=lse.float(), delta=(do * o).sum(2).float())


def backward(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, do: torch.Tensor, lse: torch.Tensor,
             delta: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """p, ds, the size of ds, and by how much errors grow on the way to ds."""
    scores = q @ k.transpose(1, 2) * scale
    size = q.abs() @ k.abs().transpose(1, 2) * scale
    seen = torch.ones(q.shape[1], q.shape[1]).tril().bool()
    p = torch.where(seen, torch.exp(scores - lse[:, :, None]), 0.0)
    ds = p * (do @ v.transpose(1, 2) - delta[:, :, None])
    ds_size = p * (do.abs() @ v.abs().transpose(1, 2) + delta.abs()[:, :, None])
    return p, ds, ds_size, q.shape[2] + amplified_by(q.shape[2], size) + int(2 * lse.abs().max())


def jagged(tensors: dict[str, torch.Tensor], sizes: Mapping[str, float],
           rng: torch.Generator) -> dict[str, torch.Tensor]:
    """The first sequences are as long as allowed, the last has the rest, those between are empty; times only
    grow within a sequence.
    """
    rest = sizes["L"]
    last = sizes["B"] - 1
    lengths = [0] * sizes["B"]
    for b in range(sizes["B"]):
        place = b
        if b > 0 and rest <= sizes["N"]:
            place = -1
        lengths[place] = rest
        if b < last:
            lengths[place] = min(rest, sizes["N"])
        rest -= lengths[b]
    offsets = torch.tensor([0, *lengths]).cumsum(0).int()
    return tensors | dict(offset=offsets, time=tensors["time"].long().cumsum(0).int())


def silu_size(score_size: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The size of an error in silu(score): its slope is at most 1.1."""
    return 1.1 * score_size + weights.abs()
