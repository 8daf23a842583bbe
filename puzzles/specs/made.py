"""Inputs that are made, not drawn: what a wrong answer would survive if it were left to chance.

Each is the `make` of a Case; its name is how the case reads in a verdict.
"""

from collections.abc import Mapping

import torch

Tensors = dict[str, torch.Tensor]
_FAR = 150.0                             # two factors of this size make a score beyond 20,000


def scores_far_below_zero(tensors: Tensors, sizes: Mapping[str, float]) -> Tensors:
    """Queries all positive, keys all negative and large: no running maximum may start at a number.

    Every score is below -10,000, whatever the width and the scale.
    """
    width = sizes.get("D", 1) * sizes.get("sm_scale", 1.0)
    far = _FAR / width ** 0.5
    made = {}
    for name, values in tensors.items():
        if name == "q":
            values = far + values.abs()
        elif name in ("k", "k_cache"):
            values = -far - values.abs()
        made[name] = values
    return made


def all_equal(tensors: Tensors, sizes: Mapping[str, float]) -> Tensors:
    """Every value of every row the same."""
    return {name: torch.full_like(values, -3) if values.is_floating_point() else values
            for name, values in tensors.items()}


def largest_at_the_edges(tensors: Tensors, sizes: Mapping[str, float]) -> Tensors:
    """The largest of a row stands first, last, in both places, or on both sides of a block's end.

    For classes with a target, the target is the first, then the last.
    """
    (name, rows), = ((name, values) for name, values in tensors.items() if values.dim() == 2)
    rows = rows.clone()
    last = rows.shape[1] - 1
    edge = min(int(sizes["BLOCK"]), last)
    top = rows.abs().max() + 3
    for n, places in enumerate(((last,), (0,), (0, last), (edge - 1, edge), (edge,))[:len(rows)]):
        for place in places:
            rows[n, place] = top
    made = tensors | {name: rows}
    if "target" in tensors:
        made["target"] = _ends_first(tensors["target"], last)
    return made


def first_and_last_position(tensors: Tensors, sizes: Mapping[str, float]) -> Tensors:
    """The first token is at the last position, the second at the first."""
    return tensors | dict(position=_ends_first(tensors["position"], int(sizes["P"]) - 1))


def _ends_first(indices: torch.Tensor, last: int) -> torch.Tensor:
    """The same indices, but the first is the last possible and the second 0."""
    indices = indices.clone()
    indices[0] = last
    indices[1:2] = 0
    return indices
