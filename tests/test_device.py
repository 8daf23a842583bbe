"""CPU or GPU: asked in one place, and answered with the remedy."""

import pytest
import torch

from aiinfra.device import (
    as_device, as_dtype, default_device, device_name, free_bytes, gpu_report, synchronize, to_device)

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def test_a_gpu_that_is_not_the_current_one_is_refused(monkeypatch) -> None:
    """Triton launches on the current GPU, whatever its tensors lie on."""
    for name, value in (("is_available", True), ("device_count", 2), ("current_device", 0)):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    assert as_device("cuda") == torch.device("cuda") and as_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(ValueError, match=r"device='cuda:1' is not the current GPU.*set_device\(1\)"):
        as_device("cuda:1")
    with pytest.raises(ValueError, match="this machine has 2 GPU"):
        as_device("cuda:2")


@pytest.mark.parametrize("device", ["gpu", "meta", "tpu:0"])
def test_an_unknown_device(device: str) -> None:
    with pytest.raises(ValueError, match=f"device='{device}' is not known. Use 'cpu', 'cuda' or 'cuda:0'"):
        as_device(device)


@NO_GPU
def test_a_gpu_that_is_not_there_says_why() -> None:
    with pytest.raises(ValueError, match="device='cuda' was asked for. No GPU: .* Use device='cpu'"):
        as_device("cuda")
    assert gpu_report().startswith("No GPU: ")
    assert default_device() == as_device(None) == torch.device("cpu")


@NO_GPU
@pytest.mark.parametrize("build, driver, why", [
    (None, True, "this PyTorch is a CPU build; install a CUDA build to use your NVIDIA GPU"),
    (None, False, "this PyTorch is a CPU build"),
    ("13.0", True, "NVIDIA's driver is installed but PyTorch cannot start it; run nvidia-smi to see why"),
    ("13.0", False, "no NVIDIA driver is installed on this machine; install one if it has a GPU"),
])
def test_why_there_is_no_gpu(build: str | None, driver: bool, why: str, monkeypatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", build)
    monkeypatch.setattr("aiinfra.device.Path.exists", lambda path: driver)
    assert gpu_report().startswith(f"No GPU: {why}. Everything runs on the CPU")


def test_types_by_name() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert as_dtype(None, cpu) == torch.float32 and as_dtype(None, gpu) == torch.bfloat16
    assert as_dtype("bf16", cpu) == as_dtype(torch.bfloat16, cpu) == torch.bfloat16
    with pytest.raises(ValueError, match="dtype='int3' is not known. Use one of: float32, fp32, bfloat16"):
        as_dtype("int3", cpu)


def test_a_cpu_waits_for_nobody_and_states_no_budget() -> None:
    synchronize("cpu")
    assert free_bytes("cpu") is None
    assert device_name("cpu").endswith(("1 thread", " threads"))


def test_values_arrive_whatever_they_came_in() -> None:
    cpu = torch.device("cpu")
    assert torch.equal(to_device([1, 2], torch.int32, cpu), torch.tensor([1, 2], dtype=torch.int32))
    made = torch.tensor([1.5])
    assert to_device(made, torch.float32, cpu).data_ptr() == made.data_ptr()
