"""What the system offers is used without changing what a program computes."""

import sys

import torch

from aiinfra.environment import use_huge_pages


def test_huge_pages_keep_the_content() -> None:
    x = torch.arange(4 << 20, dtype=torch.float32)
    moved = use_huge_pages(x.data_ptr(), x.nbytes)
    assert moved in (True, False) and torch.equal(x, torch.arange(4 << 20, dtype=torch.float32))
    assert not use_huge_pages(x.data_ptr(), 1000), "less than a page: nothing to move"
    assert sys.platform == "linux" or not moved
