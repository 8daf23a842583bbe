import pytest
import torch
import torch.nn.functional as F
# noqa: F401
from tests.kernels.kernel_checks import DEVICE, doubled, gradients, randn, relative_error, unwritten_is_nan

from aiinfra.kernels.grouped_matmul import cost, grouped_matmul, grouped_matmul_reference

pytestmark = pytest.mark.usefixtures("unwritten_is_nan")
RAGGED = [[3, 5, 0, 1], [0, 0, 70, 0], [17, 0, 0, 16], [1], [0, 33], [0, 0, 0]]


def offsets_of(counts: list[int]) -> torch.Tensor:
    return torch.tensor([0, *counts], device=DEVICE).cumsum(0).int()


def inputs(counts: list[int], outputs: int = 33, width: int = 20):
    x = randn(sum(counts), width, grad=True)
    return x, randn(len(counts), outputs, width, grad=True, seed=1), offsets_of(counts)


def kernel(x, weight, offsets):
    return grouped_matmul(x, weight, offsets, backend="triton")


def one_by_one(x, weight, offsets):
    """Each row by itself, with the expert that its place says."""
    counts = offsets.diff().tolist()
    chosen = torch.arange(len(counts), device=DEVICE).repeat_interleave(torch.tensor(counts, device=DEVICE))
    return torch.einsum("nd, nfd -> nf", x, weight[chosen])


@pytest.mark.parametrize("counts", RAGGED)
def test_reference_is_a_product_a_row(counts):
    x, weight, offsets = inputs(counts)
    wide = doubled(x, weight, offsets)
    torch.testing.assert_close(grouped_matmul_reference(*wide), one_by_one(*wide))
    with torch.no_grad():                                   # which leaves experts without a row out
        torch.testing.assert_close(grouped_matmul_reference(*wide), one_by_one(*wide))


def test_reference_gradients():
    x, weight, offsets = doubled(*inputs([2, 0, 3], outputs=3, width=4))
    assert torch.autograd.gradcheck(lambda a, b: grouped_matmul_reference(a, b, offsets), (x, weight))


@pytest.mark.parametrize("counts", RAGGED)
@pytest.mark.parametrize("outputs, width", [(33, 20), (1, 65), (130, 3)])
def test_kernel_is_the_reference(counts, outputs, width):
    given = inputs(counts, outputs, width)
    assert relative_error(kernel(*given), grouped_matmul_reference(*doubled(*given))) < 1e-6
    ours, wanted = gradients(kernel, *given), gradients(grouped_matmul_reference, *doubled(*given))
    assert [relative_error(a, b) < 2e-6 for a, b in zip(ours, wanted)] == [True, True]


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_an_expert_without_a_row_has_a_gradient_of_zero(backend):
    x, weight, offsets = inputs([2, 0, 3, 0])
    grouped_matmul(x, weight, offsets, backend=backend).square().sum().backward()
    assert not weight.grad[[1, 3]].any() and weight.grad[0].any() and weight.grad[2].any()


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_one_gradient_alone(backend):
    x, weight, offsets = inputs([2, 1])
    grouped_matmul(x.detach(), weight, offsets, backend=backend).sum().backward()
    grouped_matmul(x, weight.detach(), offsets, backend=backend).sum().backward()
    assert x.grad.isfinite().all() and weight.grad.isfinite().all()


def test_views():
    x, weight, offsets = inputs([4, 2, 0, 5], width=40)
    for view in (x[:, ::2], x[:, 8:28]):
        for matrices in (weight[:, :, :20], weight[:, ::2, 20:], weight[:, :20, :20].transpose(1, 2)):
            wanted = grouped_matmul_reference(*doubled(view, matrices, offsets))
            assert relative_error(kernel(view, matrices, offsets), wanted) < 1e-6


def test_experts_are_independent():
    x, weight, offsets = inputs([4, 2, 5])
    changed = weight.detach().clone()
    changed[1] = float("nan")
    rows = [0, 1, 2, 3, 6, 7, 8, 9, 10]
    assert torch.equal(kernel(x, weight, offsets)[rows], kernel(x, changed, offsets)[rows])


def test_half_precision_accumulates_in_float32():
    x, weight = randn(9, 300, dtype=torch.bfloat16), randn(2, 8, 300, dtype=torch.bfloat16, seed=1)
    wanted = grouped_matmul_reference(*doubled(x, weight), offsets_of([4, 5]))
    assert relative_error(kernel(x, weight, offsets_of([4, 5])), wanted) < 3e-3


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_autocast_multiplies_in_its_dtype(backend):
    x, weight, offsets = inputs([4, 2])
    with torch.autocast(DEVICE.type, torch.bfloat16):
        y = grouped_matmul(x, weight, offsets, backend=backend)
    y.sum().backward()
    assert y.dtype == torch.bfloat16 and x.grad.dtype == weight.grad.dtype == torch.float32


def test_is_pytorchs_own():
    x, weight, offsets = randn(11, 32), randn(3, 48, 32), offsets_of([3, 0, 8])
    ours = grouped_matmul(x, weight, offsets)
    theirs = F.grouped_mm(x.bfloat16(), weight.bfloat16().transpose(1, 2), offs=offsets[1:])
    assert relative_error(ours, theirs) < 1e-2


def test_errors():
    x, weight, offsets = inputs([2, 1])
    with pytest.raises(ValueError, match=r"x \(3, 20\), weight \(2, 33, 20\) and offsets \(2,\) must be"):
        grouped_matmul(x, weight, offsets[:2])
    with pytest.raises(ValueError, match="offsets go from 0 to 4: they must rise from 0 to the 3 rows"):
        grouped_matmul(x, weight, offsets_of([2, 2]))
    with pytest.raises(ValueError, match="must rise"):
        grouped_matmul(x, weight, torch.tensor([0, 5, 3]))


def test_cost_counts_the_matrices_that_are_read():
    x, weight, offsets = inputs([3, 0, 5])
    y = grouped_matmul(x, weight, offsets)
    wanted = 4 * (x.numel() + y.numel() + 2 * weight[0].numel())
    assert cost(8, 20, 33, experts=2, bytes_per_value=4).bytes == wanted
    assert cost(8, 20, 33, experts=2).flops == 2 * 8 * 20 * 33
