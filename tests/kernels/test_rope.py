import pytest
import torch
# noqa: F401
from tests.kernels.kernel_checks import DEVICE, doubled, gradients, randn, relative_error, unwritten_is_nan
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from aiinfra.kernels.rope import cost, rope, rope_reference, rope_tables

pytestmark = pytest.mark.usefixtures("unwritten_is_nan")


def inputs(tokens: int, heads: int, kv_heads: int, size: int, dtype=torch.float32):
    """q, k, positions (not in order, one of them twice), cos, sin."""
    positions = (torch.arange(tokens, device=DEVICE) * 7 + 3) % 50
    if tokens > 1:
        positions[1] = positions[0]
    return (randn(tokens, heads, size, dtype=dtype, grad=True),
            randn(tokens, kv_heads, size, dtype=dtype, grad=True, seed=1),
            positions, *rope_tables(50, size, device=DEVICE))


def kernel(*args):
    return rope(*args, backend="triton")


def reference(q, k, *rest):
    return rope_reference(q, *rest), rope_reference(k, *rest)


def test_reference_is_llamas():
    q, k, positions, cos, sin = inputs(5, 4, 2, 16)
    heads_first = [x.transpose(0, 1)[None] for x in (q, k)]                        # [1, H, N, Dh]
    both = [torch.cat((t, t), -1)[positions][None] for t in (cos, sin)]            # [1, N, Dh]
    for got, wanted in zip(reference(q, k, positions, cos, sin), apply_rotary_pos_emb(*heads_first, *both)):
        torch.testing.assert_close(got, wanted[0].transpose(0, 1))


def test_scores_depend_on_distance_only():
    cos, sin = rope_tables(200, 32, device=DEVICE)
    q, k = randn(1, 1, 32).expand(3, 1, 32), randn(1, 1, 32, seed=1).expand(3, 1, 32)
    near, far = torch.tensor([7, 60, 190], device=DEVICE), torch.tensor([2, 55, 185], device=DEVICE)
    scores = (kernel(q, k, near, cos, sin)[0] * kernel(q, k, far, cos, sin)[1]).sum(-1)
    torch.testing.assert_close(scores, scores[:1].expand(3, 1), rtol=1e-4, atol=1e-5)


def test_reference_gradients():
    q, k, positions, cos, sin = doubled(*inputs(2, 3, 1, 6))
    assert torch.autograd.gradcheck(lambda a, b: reference(a, b, positions, cos, sin), (q, k))


@pytest.mark.parametrize("tokens", [0, 1, 3])
@pytest.mark.parametrize("heads, kv_heads", [(1, 1), (3, 1), (8, 8), (9, 3)])
@pytest.mark.parametrize("size", [2, 6, 32, 64, 96, 128])
def test_kernel_is_the_reference(tokens, heads, kv_heads, size):
    args = inputs(tokens, heads, kv_heads, size)
    for got, wanted in zip(kernel(*args), reference(*doubled(*args))):
        assert relative_error(got, wanted) < 1e-6
    for got, wanted in zip(gradients(kernel, *args), gradients(reference, *doubled(*args)), strict=True):
        assert relative_error(got, wanted) < 1e-6


def test_views_of_one_projection_and_of_wide_tables():
    tokens, size = 4, 16
    qkv = randn(tokens, (4 + 2 + 2) * size)
    q, k, _ = (t.unflatten(1, (-1, size)) for t in qkv.split([4 * size, 2 * size, 2 * size], 1))
    cos, sin = (torch.cat((t, t), -1) for t in rope_tables(50, size, device=DEVICE))   # [S, Dh]
    positions = torch.tensor([9, 0, 49, 9], dtype=torch.int32, device=DEVICE)
    got = kernel(q, k, positions, cos[:, :size // 2], sin[:, size // 2:])
    wanted = kernel(q.contiguous(), k.contiguous(), positions, *rope_tables(50, size, device=DEVICE))
    assert all(torch.equal(a, b) for a, b in zip(got, wanted))


@pytest.mark.parametrize("view", [lambda t: t[..., ::3], lambda t: t[..., 5:21], lambda t: t[...,
                                                                                             :16].flip(0)],
                         ids=["every third", "heads apart", "flipped"])
def test_views_of_k(view):
    q, _, positions, cos, sin = inputs(3, 4, 1, 16)
    k = view(randn(3, 2, 48)).requires_grad_()             # its head stride is not q's
    args = (q, k, positions, cos, sin)
    for got, wanted in zip(kernel(*args), reference(*doubled(*args))):
        assert relative_error(got, wanted) < 1e-6
    for got, wanted in zip(gradients(kernel, *args), gradients(reference, *doubled(*args)), strict=True):
        assert relative_error(got, wanted) < 1e-6


def test_gradient_that_arrives_as_a_view():
    args = inputs(2, 3, 1, 6)
    wide = doubled(*args)
    (sum(t.sum() for t in kernel(*args))).backward()
    (sum(t.sum() for t in reference(*wide))).backward()
    assert relative_error(args[0].grad, wide[0].grad) < 1e-6


def test_half_precision_rounds_once():
    args = inputs(3, 4, 2, 64, torch.float16)
    for got, wanted in zip(kernel(*args), reference(*doubled(*args))):
        assert ((got.double() - wanted).abs() <= 1.01 * 2**-11 * wanted.abs() + 1e-6).all()


def test_tokens_are_independent():
    q, k, *rest = inputs(4, 3, 1, 32)
    changed = q.detach().clone()
    changed[2] = float("nan")
    before, after = kernel(q, k, *rest), kernel(changed, k, *rest)
    assert torch.equal(before[0][[0, 1, 3]], after[0][[0, 1, 3]])
    assert torch.equal(before[1], after[1]) and after[0][2].isnan().all()


def test_tables_stay_exact_at_long_positions():
    cos, sin = rope_tables(131_073, 8)
    angle = 131_072 * 10000.0 ** -0.25
    wanted = torch.tensor([angle], dtype=torch.float64)
    assert abs(cos[-1, 1] - wanted.cos()) < 1e-7 and abs(sin[-1, 1] - wanted.sin()) < 1e-7


def test_errors():
    q, k, positions, cos, sin = inputs(3, 2, 1, 8)
    with pytest.raises(ValueError, match=r"\[N, H, Dh\]"):
        rope(q, k[:2], positions, cos, sin)
    with pytest.raises(ValueError, match="Dh=8"):
        rope(q, k, positions, cos[:, :2], sin[:, :2])
    with pytest.raises(ValueError, match="not known"):
        rope(q, k, positions, cos, sin, backend="cuda")


def test_cost_counts_each_tensor_once():
    q, k, positions, cos, sin = inputs(5, 4, 2, 16, torch.bfloat16)
    angles = 2 * cos[positions].numel() * 4
    assert cost(5, 4, 2, 16).bytes == 2 * 2 * (q.numel() + k.numel()) + angles
