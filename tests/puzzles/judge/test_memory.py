"""Watched memory: ranges, guards and gaps."""

import torch

from puzzles.judge.launch import odd_strides
from puzzles.judge.memory import Memory, owners


def test_each_tensor_lies_in_a_range_of_its_own_between_guards():
    memory = Memory(dict(x=torch.arange(6.0), z=torch.zeros(4)), {"z"})
    x, z = memory.regions
    assert z.start - x.start >= 64 << 20 and x.canaries_intact() and z.canaries_intact()
    assert torch.equal(x.tensor, torch.arange(6.0)) and x.tensor.data_ptr() == x.start
    x.raw[0] = 0
    assert not x.canaries_intact()


def test_gaps_between_rows_are_nobodys():
    values = torch.arange(6.0).view(2, 3)
    padded, turned = odd_strides(values, 1), odd_strides(values, 2)
    assert padded.stride() == (6, 1) and turned.stride() == (1, 2) and torch.equal(padded, turned)
    assert owners(padded).tolist() == [0, 1, 2, -1, -1, -1, 3, 4, 5]
    assert owners(turned).tolist() == [0, 3, 1, 4, 2, 5]
