import re

import pytest
import torch
import torch.nn.functional as F
# noqa: F401
from tests.kernels.kernel_checks import DEVICE, doubled, gradients, randn, relative_error, unwritten_is_nan
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from aiinfra.gpu.listing import listings
from aiinfra.kernels import rmsnorm
from aiinfra.kernels.rmsnorm import cost, rms_norm, rms_norm_reference

pytestmark = pytest.mark.usefixtures("unwritten_is_nan")
EPS = 1e-5


def inputs(rows: int, width: int, dtype=torch.float32):
    """x, weight and residual, each wanting a gradient."""
    return (randn(rows, width, dtype=dtype, grad=True), randn(width, dtype=dtype, grad=True, seed=1),
            randn(rows, width, dtype=dtype, grad=True, seed=2))


def kernel(x, weight, residual=None):
    return rms_norm(x, weight, EPS, residual, backend="triton")


def reference(x, weight, residual=None):
    return rms_norm_reference(x, weight, EPS, residual)


def test_reference_is_torchs_and_llamas():
    x, weight, residual = inputs(5, 48)
    llama = LlamaRMSNorm(48, EPS).to(DEVICE)
    llama.weight = torch.nn.Parameter(weight)
    torch.testing.assert_close(reference(x, weight), F.rms_norm(x, (48,), weight, EPS))
    torch.testing.assert_close(reference(x, weight), llama(x))
    y, total = reference(x, weight, residual)
    assert torch.equal(total, x + residual)
    assert torch.equal(y, reference(x + residual, weight))


def test_reference_gradients():
    x, weight, residual = doubled(*inputs(3, 7))
    assert torch.autograd.gradcheck(reference, (x, weight))
    assert torch.autograd.gradcheck(reference, (x, weight, residual))


@pytest.mark.parametrize("rows", [0, 1, 3, 4, 5])
@pytest.mark.parametrize("width", [1, 31, 32, 33, 576, 1025])
def test_kernel_is_the_reference(rows, width):
    x, weight, residual = inputs(rows, width)
    assert relative_error(kernel(x, weight), reference(*doubled(x, weight))) < 1e-6
    y, total = kernel(x, weight, residual)
    assert torch.equal(total, x + residual)
    assert relative_error(y, reference(*doubled(x, weight, residual))[0]) < 1e-6


@pytest.mark.parametrize("rows, width", [(0, 5), (1, 1), (5, 33), (9, 1024), (2, 1025)])
@pytest.mark.parametrize("fused", [False, True])
def test_kernel_gradients(rows, width, fused):
    args = inputs(rows, width)[:3 if fused else 2]
    for got, wanted in zip(gradients(kernel, *args), gradients(reference, *doubled(*args)), strict=True):
        assert relative_error(got, wanted) < 3e-6 or (width == 1 and wanted.norm() < 1e-4)


def test_weight_gradient_when_programs_take_several_tiles(monkeypatch):
    monkeypatch.setattr(rmsnorm, "_BACKWARD_PROGRAMS", 3)
    args = inputs(41, 1024)                                 # 4 rows a tile: 11 tiles for 3 programs
    for got, wanted in zip(gradients(kernel, *args), gradients(reference, *doubled(*args)), strict=True):
        assert relative_error(got, wanted) < 3e-6


@pytest.mark.parametrize("view", [lambda t: t[:, ::2], lambda t: t[:, 8:40], lambda t: t[::2], lambda t: t.T,
                                  lambda t: t.unflatten(0, (2, 3)), lambda t: t[:1].expand(4, -1)],
                         ids=["every second", "columns", "rows", "transposed", "3-D", "repeated row"])
def test_views(view):
    x, residual = view(randn(6, 48)), view(randn(6, 48, seed=2))
    args = (x.requires_grad_(), randn(x.shape[-1], grad=True), residual.requires_grad_())
    for got, wanted in zip(kernel(*args), reference(*doubled(*args))):
        assert relative_error(got, wanted) < 1e-6
    for got, wanted in zip(gradients(kernel, *args), gradients(reference, *doubled(*args)), strict=True):
        assert relative_error(got, wanted) < 3e-6


def test_gradient_that_arrives_as_a_view():
    x, weight, _ = inputs(3, 33)
    kernel(x, weight).sum().backward()                      # dy is one value, expanded
    wide = doubled(x, weight)
    reference(*wide).sum().backward()
    assert relative_error(x.grad, wide[0].grad) < 3e-6


def test_only_the_residual_is_used():
    args = inputs(3, 8)
    dx, dweight, dresidual = torch.autograd.grad(kernel(*args)[1].sum(), args)
    assert torch.equal(dx, torch.ones_like(dx)) and torch.equal(dresidual, dx)
    assert not dweight.any()


def test_half_precision_rounds_once():
    x, weight, residual = inputs(5, 100, torch.float16)
    y, total = kernel(x * 500, weight, residual)            # squares overflow float16 at 256
    assert torch.equal(total, x * 500 + residual)           # bit for bit what two operations give
    wanted = reference(*doubled(total, weight))
    assert ((y.double() - wanted).abs() <= 1.001 * 2**-11 * wanted.abs() + 1e-7).all()


def test_bfloat16_comes_as_near_as_its_steps_allow():
    x, weight, residual = inputs(5, 100, torch.bfloat16)
    y, total = kernel(x, weight, residual)                  # a step of 2^-7: the interpreter truncates
    wanted = reference(*doubled(total, weight))
    assert ((y.double() - wanted).abs() <= 1.001 * 2**-7 * wanted.abs()).all()
    for got, wanted in zip(gradients(kernel, x, weight, residual),
                           gradients(reference, *doubled(x, weight, residual)), strict=True):
        assert relative_error(got, wanted) < 2**-7


def test_rows_are_independent():
    x, weight, residual = (t.detach() for t in inputs(9, 600))
    changed = x.clone()
    changed[4] = float("nan")
    before, after = kernel(x, weight, residual), kernel(changed, weight, residual)
    others = [0, 1, 2, 3, 5, 6, 7, 8]
    assert all(torch.equal(a[others], b[others]) for a, b in zip(before, after))
    assert after[0][4].isnan().all()


def test_errors():
    x, weight, residual = inputs(2, 8)
    with pytest.raises(ValueError, match="cuda-graphs"):
        rms_norm(x, weight, backend="cuda-graphs")
    with pytest.raises(ValueError, match=r"need \(8,\)"):
        rms_norm(x, weight[:4])
    with pytest.raises(ValueError, match="must agree"):
        rms_norm(x, weight, residual=residual[:1])
    with pytest.raises(ValueError, match="16,384"):
        rms_norm(torch.zeros(1, 20000, device=DEVICE), torch.ones(20000, device=DEVICE), backend="triton")


def test_default_backend_on_cpu_is_the_reference():
    x, weight, _ = (t.detach().cpu() for t in inputs(2, 8))
    assert torch.equal(rms_norm(x, weight, EPS), reference(x, weight))


def test_cost_counts_each_tensor_once():
    x, weight, residual = inputs(7, 64, torch.bfloat16)
    y, total = kernel(x, weight, residual)
    moved = sum(t.numel() * t.element_size() for t in (x, weight, residual, y, total))
    assert cost(7, 64, bytes_per_value=2).bytes == moved
    assert cost(7, 64, residual=False).bytes == (2 * 7 * 64 + 64) * 2


@pytest.mark.compile
def test_the_weight_is_on_its_way_while_the_row_is_added_up():
    """A load takes half a microsecond, and a kernel this short waits for one. Old code: the weight's stood
    behind the sum, where it was waited for again."""
    pointers = {f"{name}_ptr": "*bf16" for name in ("x", "residual", "weight", "y", "total")}
    whole = dict.fromkeys(("width", "x_stride", "residual_stride"), "i32:16")
    types = pointers | whole | {"rstd_ptr": "*fp32", "eps": "fp32"}
    [code] = listings(rmsnorm._forward_kernel, types, dict(HAS_RESIDUAL=True, ROWS=1, BLOCK_D=4096))
    order = re.findall(r"\b(LDG|SHFL|STG)\b", code.sass)
    assert "SHFL" in order and "LDG" not in order[order.index("SHFL"):], order
