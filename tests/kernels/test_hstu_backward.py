"""HSTU attention's backward: the formula's gradients in float64, the same in every run."""

import pytest
import torch
from tests.kernels.hstu_inputs import NAMES, SampleHistories
from tests.kernels.kernel_checks import on_device, relative_error, unwritten_is_nan  # noqa: F401

from aiinfra.kernels.hstu_attention import hstu_attention, hstu_reference

pytestmark = pytest.mark.usefixtures("unwritten_is_nan", "on_device")
BLOCK = 16          # the interpreter's tile
LENGTHS = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 37]


@pytest.mark.parametrize("heads, size, value_size, per_head", [
    (1, 32, 32, False), (2, 64, 32, True), (1, 128, 128, True),
    pytest.param(3, 32, 80, False, marks=pytest.mark.slow)])
def test_output_and_all_gradients_against_float64(heads, size, value_size, per_head):
    data = SampleHistories(LENGTHS, heads, size, value_size, max_len=40, per_head=per_head)
    assert (torch.einsum("ihd,jhd->hij", data.q, data.k) * data.alpha).abs().max() > 3
    for name, got, want in zip(NAMES, data.fused(), data.formula()):
        assert got.shape == want.shape and relative_error(got, want) < 5e-6, name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    """Compared with the formula in float64, on the same rounded inputs."""
    data = SampleHistories([17, 5], max_len=20)
    for name in ("q", "k", "v", "dy", "position", "time"):
        setattr(data, name, getattr(data, name).to(dtype))
    fused = data.run(hstu_attention, data.offsets, dtype, backend="triton")
    for name, got, want in zip(NAMES, fused, data.formula()):
        assert got.dtype == dtype and relative_error(got, want) < 3 * torch.finfo(dtype).eps, name


def test_gradcheck_of_the_formula():
    data = SampleHistories([3, 0, 2], heads=1, size=4, value_size=3)
    assert torch.autograd.gradcheck(
        lambda q, k, v, p, t: hstu_reference(q, k, v, [0, 3, 3, 5], data.times, p, t, max_len=3, alpha=0.3),
        data.tensors(torch.float64))


@pytest.mark.slow
def test_table_gradients_are_the_same_in_every_run():
    data = SampleHistories([37, 20])
    assert all(torch.equal(a, b) for a, b in zip(data.fused(), data.fused()))
