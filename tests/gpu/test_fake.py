"""A GPU that computes nothing keeps books: what was asked of it, and what would have made the CPU wait."""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from aiinfra.device import default_device, free_bytes, gpu_report, to_device
from aiinfra.gpu.fake import fake_gpu
from aiinfra.gpu.graph import capture
from aiinfra.kernels import chip
from aiinfra.kernels.rmsnorm import rms_norm

pytest.importorskip("triton")


def test_nothing_is_left_behind() -> None:
    before = torch.cuda.is_available(), torch.cuda.Stream, torch._C._only_lift_cpu_tensors()
    with fake_gpu(arch=86, memory_bytes=24_000_000_000) as gpu:
        assert default_device().type == "cuda" and "sm_86, 24 of 24 GB" in gpu_report()
        assert free_bytes(gpu.device) == 24_000_000_000
        assert chip.arch_of(torch.empty(1, device="cuda")) == 86 and chip.arch_of(torch.empty(1)) == 0
    assert (torch.cuda.is_available(), torch.cuda.Stream, torch._C._only_lift_cpu_tensors()) == before
    assert torch.equal(torch.tensor([1, 2]) + 1, torch.tensor([2, 3]))


def test_a_gpu_that_is_too_old_is_not_taken() -> None:
    with fake_gpu(arch=75):
        assert default_device() == torch.device("cpu") and "compute capability 7.5" in gpu_report()


def test_kernels_are_noted_and_the_cpu_is_real() -> None:
    with fake_gpu() as gpu:
        x = to_device([[1.0] * 64] * 3, torch.float32, gpu.device)
        weight = torch.ones(64, device=gpu.device)
        gpu.started.clear()
        y = rms_norm(x, weight) + 1
        assert y.is_cuda and [one.name for one in gpu.started] == ["_forward_kernel", "add"]
        assert gpu.started[0].grid == (1,) and gpu.started[0].module == "rmsnorm"
        assert (torch.arange(3) * 2).tolist() == [0, 2, 4]                # on the CPU, with numbers
        view = y.view(-1)[3:].unflatten(0, (-1, 3))
        assert view.shape == (63, 3) and len(gpu.started) == 2              # views start nothing
        assert gpu.complaints == []


WAITS = {
    "item": lambda x: x.sum().item(), "an if": lambda x: 1 if x.any() else 2, "a mask": lambda x: x[x > 0],
    "nonzero": lambda x: x.nonzero(), "tolist": lambda x: x.tolist(),
}
COMPLAINTS = {
    "to the CPU": lambda x: x.cpu(),
    "_to_copy to the CPU": lambda x: x.to("cpu"),
    "not pinned": lambda x: torch.ones(3).to(x.device),
    "copy_ from memory that is not pinned": lambda x: x.copy_(torch.ones(4)),
    "copy_ to the CPU": lambda x: torch.empty(4).copy_(x),
}


@pytest.mark.parametrize("look", WAITS.values(), ids=WAITS)
def test_what_depends_on_a_number_raises(look) -> None:
    with fake_gpu() as gpu, pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
        look(torch.zeros(4, device=gpu.device))


@pytest.mark.parametrize("said", COMPLAINTS)
def test_what_waits_is_complained_of(said: str) -> None:
    with fake_gpu() as gpu:
        COMPLAINTS[said](torch.zeros(4, device=gpu.device))
        assert len(gpu.complaints) == 1 and said in gpu.complaints[0]


def test_pinned_copies_do_not_wait_and_bring_numbers() -> None:
    with fake_gpu() as gpu:
        x = to_device(list(range(8)), torch.int64, gpu.device)
        host = torch.empty(8, dtype=torch.int64, pin_memory=True).copy_(x, non_blocking=True)
        assert gpu.complaints == [] and all(0 <= number < 16 for number in host.tolist())


def test_two_devices_do_not_mix() -> None:
    with fake_gpu() as gpu, pytest.raises(Exception, match="device"):
        torch.zeros(4, device=gpu.device) + torch.zeros(4)


def test_a_recording_holds_its_kernels_and_nothing_from_the_cpu() -> None:
    with fake_gpu() as gpu:
        x = torch.zeros(4, device=gpu.device)
        graph = capture(lambda: x.add_(1).mul_(2))
        assert [one.name for one in graph.kernels] == ["add_", "mul_"] and gpu.complaints == []
        before = len(gpu.started)
        graph.replay()
        assert [one.name for one in gpu.started[before:]] == ["add_", "mul_"] and graph.replays == 1
        capture(lambda: x.copy_(torch.ones(4).pin_memory()))
        assert "in a recording: copy_ from the CPU" in gpu.complaints
