"""CPU or GPU: asked in one place, and answered with the remedy."""

import pytest
import torch

from aiinfra.device import (
    as_device, as_dtype, default_device, device_name, free_bytes, gpu_report, synchronize, to_device)

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def has_gpus(monkeypatch, capability: tuple[int, int]) -> None:
    """Two GPUs that only answer questions."""
    answers = {"is_available": True, "device_count": 2, "current_device": 0, "get_device_name": "Quadro T9",
               "get_device_capability": capability, "mem_get_info": (int(7e9), int(8e9))}
    for name, value in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda device=None, value=value: value)


def test_a_gpu_without_matrix_units_for_bfloat16_is_left_alone(monkeypatch) -> None:
    """Old code: it was taken, and the first kernel died or did not fit."""
    has_gpus(monkeypatch, capability=(7, 5))
    assert default_device() == torch.device("cpu")
    said = "Quadro T9 has compute capability 7.5; the kernels here need 8.0"
    assert gpu_report().startswith(f"No GPU: {said}") and "Everything runs on the CPU" in gpu_report()
    with pytest.raises(ValueError, match=f"device='cuda' was asked for. {said}.*Use device='cpu'"):
        as_device("cuda")
    has_gpus(monkeypatch, capability=(8, 0))
    assert default_device() == torch.device("cuda") and as_device("cuda") == torch.device("cuda")


@pytest.mark.parametrize("tool, header, missing", [
    ("gcc", True, None), (None, True, "a C compiler (gcc or clang)"),
    ("gcc", False, "Python's headers (Python.h)"),
])
def test_what_triton_needs_is_said_before_it_fails(tool, header, missing, monkeypatch) -> None:
    """Old code: CalledProcessError of a compiler's command, inside a recording."""
    has_gpus(monkeypatch, capability=(9, 0))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("aiinfra.environment.shutil.which", lambda name: tool if name == tool else None)
    monkeypatch.setattr("aiinfra.environment.Path.exists", lambda path: header)
    report = gpu_report()
    assert report.startswith("GPU: Quadro T9, 7 of 8 GB free.")
    assert (f"Triton needs {missing}" in report) if missing else ("Triton" not in report)


def test_a_gpu_that_is_not_the_current_one_is_refused(monkeypatch) -> None:
    """Triton launches on the current GPU, whatever its tensors lie on."""
    has_gpus(monkeypatch, capability=(9, 0))
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
    (None, "535.161.07", "this PyTorch is a CPU build; install a CUDA build to use your NVIDIA GPU"),
    (None, None, "this PyTorch is a CPU build"),
    ("13.0", "535.161.07", "NVIDIA's driver 535.161.07 is too old: this PyTorch is built for CUDA 13.0, "
                           "which needs 580.65.06 or later. Update the driver"),
    ("13.0", "590.12", "NVIDIA's driver 590.12 is installed but PyTorch, built for CUDA 13.0, cannot start "
                       "it; run nvidia-smi to see why"),
    ("13.0", None, "no NVIDIA driver is installed on this machine; install one if it has a GPU"),
])
def test_why_there_is_no_gpu(build: str | None, driver: str | None, why: str, monkeypatch, tmp_path) -> None:
    file = tmp_path / "version"
    if driver:
        file.write_text(f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Tue Jan  1 2030\n")
    monkeypatch.setattr(torch.version, "cuda", build)
    monkeypatch.setattr("aiinfra.device._DRIVER_FILE", file)
    assert gpu_report().startswith(f"No GPU: {why}") and "Everything runs on the CPU" in gpu_report()


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
