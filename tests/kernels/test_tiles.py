"""Sizes that the attention kernels are compiled for follow from their arguments."""

import pytest
import torch

from aiinfra.kernels.tiles import head_sizes, padded, row_head_strides


@pytest.mark.parametrize("size, wanted", [(1, 16), (16, 16), (17, 32), (80, 128), (128, 128)])
def test_head_sizes_are_padded_to_a_power_of_two(size: int, wanted: int) -> None:
    assert padded(size) == wanted


def test_constants_of_a_grouped_query() -> None:
    q, k = torch.zeros(5, 6, 80), torch.zeros(7, 2, 80)
    assert head_sizes(q, k, True) == {"GROUP": 3, "CAUSAL": True, "DH": 80, "DP": 128}
    assert row_head_strides(q, k[:, 1:]) == [480, 80, 160, 80]
