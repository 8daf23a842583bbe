"""Which path a kernel's wrapper takes."""

import pytest
import torch

from aiinfra.kernels.lang import pick_backend


def test_the_backend_is_asked_for_or_follows_the_tensor() -> None:
    x = torch.zeros(1)
    assert pick_backend(x, None) == "torch"
    assert pick_backend(x, "triton") == "triton" and pick_backend(x, "torch") == "torch"


def test_an_unknown_backend_names_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="backend='cuda' is not known. Use 'torch', 'triton', or None"):
        pick_backend(torch.zeros(1), "cuda")
