"""Flash attention's backward: the formula's gradients in float64."""

import pytest
import torch
from tests.kernels.flash_inputs import gradients, packed
from tests.kernels.kernel_checks import on_device, relative_error, unwritten_is_nan  # noqa: F401

from aiinfra.kernels.flash_attention import attention_reference, flash_attention

pytestmark = pytest.mark.usefixtures("unwritten_is_nan", "on_device")


def test_gradcheck_of_the_formula():
    q, k, v, cu_q, cu_k = packed([3, 1], [4, 2], 2, 1, 4, torch.float64)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    assert torch.autograd.gradcheck(
        lambda *x: attention_reference(*x, cu_q.tolist(), cu_k.tolist()), inputs)


@pytest.mark.parametrize("heads, kv_heads, size, causal", [
    (1, 1, 32, True), (3, 1, 32, True), pytest.param(8, 1, 32, False, marks=pytest.mark.slow),
    (2, 2, 64, False), (2, 1, 80, True),
    (1, 1, 128, True)])
def test_kernel_gradients_against_float64(heads, kv_heads, size, causal):
    lengths_q, lengths_k = [0, 1, 15, 17, 6, 5], [3, 1, 16, 17, 38, 2]
    q, k, v, cu_q, cu_k = packed(lengths_q, lengths_k, heads, kv_heads, size)
    do = torch.randn(q.shape)
    got = gradients(lambda *x: flash_attention(*x, cu_q, cu_k, causal=causal, backend="triton"),
                    q, k, v, do, torch.float32)
    want = gradients(lambda *x: attention_reference(*x, cu_q.tolist(), cu_k.tolist(), causal),
                     q, k, v, do, torch.float64)
    for name, a, b in zip(("o", "dq", "dk", "dv"), got, want):
        assert relative_error(a, b) < 2e-6, name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    q, k, v, cu, _ = packed([33], [33], 2, 1, 64, dtype)
    do = torch.randn(q.shape).to(dtype)
    got = gradients(lambda *x: flash_attention(*x, cu, backend="triton"), q, k, v, do, dtype)
    want = gradients(lambda *x: attention_reference(*x, [0, 33], [0, 33]), q, k, v, do, torch.float64)
    for name, a, b in zip(("o", "dq", "dk", "dv"), got, want):
        assert a.dtype == dtype and relative_error(a, b) < 2 * torch.finfo(dtype).eps, name
