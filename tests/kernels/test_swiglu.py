import pytest
import torch
import torch.nn.functional as F
# noqa: F401
from tests.kernels.kernel_checks import DEVICE, doubled, gradients, randn, relative_error, unwritten_is_nan

from aiinfra.kernels.swiglu import cost, swiglu, swiglu_reference

pytestmark = pytest.mark.usefixtures("unwritten_is_nan")


def kernel(x):
    return swiglu(x, backend="triton")


def test_reference_is_torchs():
    x = randn(5, 24)
    torch.testing.assert_close(swiglu_reference(x), F.silu(x[:, :12]) * x[:, 12:])


def test_reference_gradients():
    assert torch.autograd.gradcheck(swiglu_reference, doubled(randn(3, 8, grad=True)))


@pytest.mark.parametrize("rows", [0, 1, 3])
@pytest.mark.parametrize("features", [1, 31, 33, 1023, 1024, 1025, 2500])
def test_kernel_is_the_reference(rows, features):
    x = randn(rows, 2 * features, grad=True)
    assert relative_error(kernel(x), swiglu_reference(*doubled(x))) < 1e-6
    (got,), (wanted,) = gradients(kernel, x), gradients(swiglu_reference, *doubled(x))
    assert relative_error(got, wanted) < 1e-6


@pytest.mark.parametrize("view", [lambda t: t[:, ::2], lambda t: t[:, 8:40], lambda t: t[::2], lambda t: t.T,
                                  lambda t: t.unflatten(0, (2, 3)), lambda t: t[0]],
                         ids=["every second", "columns", "rows", "transposed", "3-D", "1-D"])
def test_views(view):
    x = view(randn(6, 48)).requires_grad_()
    assert relative_error(kernel(x), swiglu_reference(*doubled(x))) < 1e-6
    (got,), (wanted,) = gradients(kernel, x), gradients(swiglu_reference, *doubled(x))
    assert relative_error(got, wanted) < 1e-6


def test_gradient_that_arrives_as_a_view():
    x = randn(3, 10, grad=True)
    (wide,) = doubled(x)
    kernel(x).sum().backward()
    swiglu_reference(wide).sum().backward()
    assert relative_error(x.grad, wide.grad) < 1e-6


@pytest.mark.filterwarnings("ignore:overflow encountered")     # NumPy's, in the interpreter
def test_extreme_gates():
    x = torch.tensor([[-1e4, -90.0, 0.0, 90.0, 1e4, 2.0, 2.0, 2.0, 2.0, 2.0]], device=DEVICE).requires_grad_()
    torch.testing.assert_close(kernel(x), torch.tensor([[0.0, 0.0, 0.0, 180.0, 2e4]], device=DEVICE))
    assert not gradients(kernel, x)[0].isnan().any()


def test_half_precision_rounds_once():
    x = randn(4, 100, dtype=torch.float16)
    wanted = swiglu_reference(x.double())
    assert ((kernel(x).double() - wanted).abs() <= 1.01 * 2**-11 * wanted.abs() + 1e-7).all()


def test_rows_are_independent():
    x = randn(4, 66)
    changed = x.clone()
    changed[2] = float("nan")
    assert torch.equal(kernel(x)[[0, 1, 3]], kernel(changed)[[0, 1, 3]])


def test_errors():
    with pytest.raises(ValueError, match="gate, then up"):
        swiglu(randn(2, 7))
    with pytest.raises(ValueError, match="not known"):
        swiglu(randn(2, 8), backend="gpu")


def test_cost_counts_each_tensor_once():
    x = randn(5, 40, dtype=torch.bfloat16)
    assert cost(5, 20).bytes == 2 * (x.numel() + kernel(x).numel())
