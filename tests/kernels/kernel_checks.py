"""What the kernel tests share: where tensors live, how far two results are apart, and NaN for the unwritten.

The kernels run on the GPU if there is one and in Triton's interpreter otherwise. Results are
compared with the reference in float64 by relative norm, so the tolerance does not depend on scale.
"""

import pytest
import torch

from aiinfra.device import default_device

DEVICE = default_device()


def randn(*shape: int, dtype: torch.dtype = torch.float32, grad: bool = False, seed: int = 0) -> torch.Tensor:
    """Unit-scale normal values (small ones would hide a wrong non-linearity), the same at every run."""
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, device="cpu").to(DEVICE, dtype).requires_grad_(grad)


def relative_error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """|got - wanted| / |wanted| in float64; 0 if both are empty or zero, NaN if got has a NaN."""
    assert got.shape == wanted.shape, f"{tuple(got.shape)} is not {tuple(wanted.shape)}"
    apart = (got.double() - wanted.double()).norm().item()
    return apart / wanted.double().norm().item() if apart else 0.0


def gradients(fn, *inputs: torch.Tensor, seed: int = 99) -> list[torch.Tensor]:
    """Gradients of every input that wants one, for outputs weighted by the same random numbers."""
    outputs = fn(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    weights = [randn(*y.shape, seed=seed).to(y.dtype) for y in outputs]
    return list(torch.autograd.grad(outputs, [x for x in inputs if x.requires_grad], weights))


def doubled(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """Float64 copies of floating-point tensors, with the same wish for gradients; others as they are."""
    return [t.detach().double().requires_grad_(t.requires_grad) if t.is_floating_point() else t
            for t in tensors]


@pytest.fixture
def unwritten_is_nan():
    """torch.empty fills its memory with NaN, so a value that a kernel forgets to write is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(1).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def on_device():
    """New tensors live where kernels run."""
    with torch.device(DEVICE):
        yield
