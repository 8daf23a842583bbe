"""Forward and backward of each operator as a GPU is asked for them: which kernels, in which order, and that
none waits or is handed a tensor that lies elsewhere."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from aiinfra.gpu.fake import FakeGPU, fake_gpu
from aiinfra.kernels.cross_entropy import linear_cross_entropy
from aiinfra.kernels.flash_attention import flash_attention
from aiinfra.kernels.grouped_matmul import grouped_matmul
from aiinfra.kernels.hstu_attention import hstu_attention
from aiinfra.kernels.rmsnorm import rms_norm
from aiinfra.kernels.rope import rope
from aiinfra.kernels.swiglu import swiglu

pytest.importorskip("triton")
ROWS = 48


class Inputs:
    """Tensors of a kind that wait to be filled on this GPU, bfloat16 where they are not integers."""

    def __init__(self, gpu: FakeGPU) -> None:
        self.device = gpu.device
        self.leaves: list[Tensor] = []

    def values(self, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        """One that wants a gradient."""
        made = torch.empty(shape, dtype=dtype, device=self.device, requires_grad=True)
        self.leaves.append(made)
        return made

    def integers(self, *shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=self.device)


def norm(given: Inputs) -> Tensor:
    return rms_norm(given.values(ROWS, 64), given.values(64))


def fused_norm(given: Inputs) -> Tensor:
    y, total = rms_norm(given.values(ROWS, 64), given.values(64), residual=given.values(ROWS, 64))
    return y + total


def gate(given: Inputs) -> Tensor:
    return swiglu(given.values(ROWS, 128))


def turn(given: Inputs) -> Tensor:
    tables = (torch.empty(64, 16, device=given.device) for _ in ("cos", "sin"))
    positions = given.integers(ROWS, dtype=torch.int64)
    q, k = rope(given.values(ROWS, 4, 32), given.values(ROWS, 2, 32), positions, *tables)
    return q.flatten(1)[:, :64] + k.flatten(1)


def attend(given: Inputs) -> Tensor:
    q, k, v = (given.values(ROWS, heads, 64) for heads in (4, 2, 2))
    return flash_attention(q, k, v, given.integers(3), max_seqlen_q=32)


def attend_densely(given: Inputs) -> Tensor:
    q, k, v = (given.values(2, 24, heads, 64) for heads in (4, 2, 2))
    return flash_attention(q, k, v)


def recommend(given: Inputs) -> Tensor:
    q, k, v = (given.values(ROWS, 2, 32) for _ in "qkv")
    tables = given.values(2, 63, dtype=torch.float32), given.values(2, 129, dtype=torch.float32)
    seconds = given.integers(ROWS, dtype=torch.int64)
    return hstu_attention(q, k, v, given.integers(4), seconds, *tables, max_len=32)


def choose(given: Inputs) -> Tensor:
    targets = given.integers(ROWS, dtype=torch.int64)
    return linear_cross_entropy(given.values(ROWS, 64), given.values(512, 64), targets, total=30.0)


def mix(given: Inputs) -> Tensor:
    return grouped_matmul(given.values(ROWS, 64), given.values(4, 32, 64), given.integers(5))


FLASH = ["flash_attention._forward_kernel", "flash_backward._delta_kernel", "flash_backward._dk_dv_kernel",
         "flash_backward._dq_kernel"]
KERNELS: dict[Callable[[Inputs], Tensor], list[str]] = {
    norm: ["rmsnorm._forward_kernel", "rmsnorm._backward_kernel"],
    fused_norm: ["rmsnorm._forward_kernel", "rmsnorm._backward_kernel"],
    gate: ["swiglu._forward_kernel", "swiglu._backward_kernel"],
    turn: ["rope._rope_kernel", "rope._rope_kernel"],
    attend: FLASH,
    attend_densely: FLASH,
    recommend: ["hstu_attention._forward_kernel", "hstu_backward._column_kernel", "hstu_backward._row_kernel",
                "hstu_backward._bias_kernel"],
    choose: ["cross_entropy._softmax_gradient_kernel"],
    mix: ["grouped_matmul._rows_kernel", "grouped_matmul._rows_kernel", "grouped_matmul._weight_kernel"],
}


@pytest.mark.parametrize("work", KERNELS, ids=lambda work: work.__name__)
@pytest.mark.parametrize("arch", [86, 90])
def test_forward_and_backward(work: Callable[[Inputs], Tensor], arch: int) -> None:
    with fake_gpu(arch=arch) as gpu:
        given = Inputs(gpu)
        made = work(given)
        made.backward(torch.ones_like(made))
        ours = [one for one in gpu.started if one.variant is not None]
        assert [f"{one.module}.{one.name}" for one in ours] == KERNELS[work]
        assert all(one.grid and min(one.grid) > 0 for one in ours) and gpu.complaints == []
        for leaf in given.leaves:
            assert leaf.grad.is_cuda and leaf.grad.shape == leaf.shape and leaf.grad.dtype == leaf.dtype


def test_a_kernel_that_is_handed_a_tensor_of_the_cpu_is_found_out() -> None:
    """A GPU would read an address that is none of its own. PyTorch looks at what it computes itself, only."""
    with fake_gpu() as gpu, pytest.raises(RuntimeError, match="is handed a tensor that is not on the GPU"):
        rms_norm(Inputs(gpu).values(ROWS, 64), torch.ones(64, dtype=torch.bfloat16))


def test_a_backward_pass_that_waits_is_found_out() -> None:
    class Waits(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, dx):
            return dx * dx.cpu().sum()

    with fake_gpu() as gpu:
        Waits.apply(Inputs(gpu).values(3)).sum().backward()
        assert gpu.complaints == ["waits for the GPU: _to_copy to the CPU"]


def test_a_backward_pass_on_two_devices_is_found_out() -> None:
    class Elsewhere(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, dx):
            return dx * torch.ones(3)

    with fake_gpu() as gpu, pytest.raises(Exception, match="device"):
        Elsewhere.apply(Inputs(gpu).values(3)).sum().backward()
