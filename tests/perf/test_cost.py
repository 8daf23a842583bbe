"""What an operation costs follows from counting."""

import torch

from aiinfra.perf import Cost
from aiinfra.perf.cost import linear


def test_costs_add_and_scale() -> None:
    cost = 3 * (Cost(2, 4) + Cost(1, 0))
    assert (cost.flops, cost.bytes, cost.intensity) == (9, 12, 0.75)
    assert Cost(5, 0).intensity == 0


def test_a_linear_layer_by_counting() -> None:
    x, w = torch.randn(3, 5), torch.randn(7, 5)
    y = torch.nn.functional.linear(x, w)
    assert linear(3, 5, 7) == Cost(2 * 3 * 5 * 7, x.nbytes + w.nbytes + y.nbytes)
    assert linear(3, 5, 7, 4, bytes_per_weight=0.5).bytes == x.nbytes + y.nbytes + 5 * 7 / 2
