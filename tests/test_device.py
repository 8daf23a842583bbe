"""CPU or GPU: one file decides, and refuses what could not work."""

import pytest
import torch

from aiinfra.device import as_device


def test_a_gpu_that_is_not_the_current_one_is_refused(monkeypatch) -> None:
    """Triton launches on the current GPU, whatever its tensors lie on."""
    for name, value in (("is_available", True), ("device_count", 2), ("current_device", 0)):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    assert as_device("cuda") == torch.device("cuda") and as_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(ValueError, match=r"device='cuda:1' is not the current GPU.*set_device\(1\)"):
        as_device("cuda:1")
    with pytest.raises(ValueError, match="this machine has 2 GPU"):
        as_device("cuda:2")
