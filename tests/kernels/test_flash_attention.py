"""Flash attention: the kernel equals the formula, PyTorch's SDPA and the float64 gradients."""

import pytest
import torch
import torch.nn.functional as F
from tests.kernels.flash_inputs import gradients, packed
from tests.kernels.kernel_checks import DEVICE, on_device, relative_error, unwritten_is_nan  # noqa: F401

from aiinfra.kernels.flash_attention import attention_reference, cost, flash_attention

BLOCK = 128 if DEVICE.type == "cuda" else 16          # lengths below lie on both sides of a tile
pytestmark = pytest.mark.usefixtures("unwritten_is_nan", "on_device")


LENGTHS = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1]


@pytest.mark.parametrize("heads, kv_heads, size", [(1, 1, 32), (3, 1, 64), (8, 1, 32), (2, 2, 128),
                                                   (2, 1, 80)])
@pytest.mark.parametrize("causal", [True, False])
def test_kernel_equals_formula_on_ragged_lengths(heads, kv_heads, size, causal):
    q, k, v, cu, _ = packed(LENGTHS, LENGTHS, heads, kv_heads, size)
    got = flash_attention(q, k, v, cu, causal=causal, backend="triton")
    want = attention_reference(q.double(), k.double(), v.double(), cu.tolist(), cu.tolist(), causal)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("causal", [True, False])
def test_more_keys_than_rows_and_fewer(causal, backend):
    lengths_q, lengths_k = [5, 1, 20, 7, 3], [21, 40, 20, 2, 0]  # chunked prefill, decode, equal, fewer, none
    q, k, v, cu_q, cu_k = packed(lengths_q, lengths_k, 4, 2, 32)
    got = flash_attention(q, k, v, cu_q, cu_k, causal=causal, backend=backend)
    want = attention_reference(q.double(), k.double(), v.double(), cu_q.tolist(), cu_k.tolist(), causal)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
    if causal:
        assert not got[26:31].any(), "5 of 7 rows come before the first of 2 keys: they must be 0"
    assert not got[33:].any(), "rows without any key must be 0"


@pytest.mark.parametrize("causal", [True, False])
def test_dense_form_equals_sdpa(causal):
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 20, 6, 32), torch.randn(2, 20, 2, 32), torch.randn(2, 20, 2, 32)
    heads_first = (x.transpose(1, 2) for x in (q, k, v))
    want = F.scaled_dot_product_attention(*heads_first, is_causal=causal, enable_gqa=True).transpose(1, 2)
    for backend in ("triton", "torch"):
        torch.testing.assert_close(flash_attention(q, k, v, causal=causal, backend=backend), want,
                                   rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_strides_need_not_be_contiguous():
    torch.manual_seed(0)
    qkv = torch.randn(37, 4 + 2 + 2, 32)
    q, k, v = qkv.split([4, 2, 2], 1)                                  # views into one projection
    spread = [x.repeat_interleave(2, -1)[..., ::2] for x in (q, k, v)]  # last stride 2
    do = torch.randn(37, 1, 1).expand(37, 4, 32)                       # strides 0, as from a sum
    want = gradients(lambda *x: flash_attention(*x, backend="triton"),
                     *(x.contiguous() for x in (q, k, v)), do.contiguous(), torch.float32)
    for views in ((q, k, v), spread):
        got = gradients(lambda *x: flash_attention(*x, backend="triton"), *views, do, torch.float32)
        assert all(torch.equal(a, b) for a, b in zip(got, want))


def test_one_sequence_cannot_touch_another_even_with_nan():
    lengths = [9, 18, 16]
    q, k, v, cu, _ = packed(lengths, lengths, 2, 1, 32)
    do = torch.randn(q.shape)
    run = lambda *x: flash_attention(*x, cu, backend="triton")
    before = gradients(run, q, k, v, do, torch.float32)
    for x in (q, k, v):
        x[9:27] = torch.nan
    after = gradients(run, q, k, v, do, torch.float32)
    for a, b in zip(before, after):
        assert torch.equal(a[:9], b[:9]) and torch.equal(a[27:], b[27:]) and b[9:27].isnan().all()


def test_large_scores_do_not_overflow_and_scale_is_used():
    q, k, v, cu, _ = packed([20], [20], 1, 1, 32)
    got = flash_attention(q * 100, k * 100, v, cu, scale=0.5, backend="triton")
    want = attention_reference(q.double() * 100, k.double() * 100, v.double(), [0, 20], [0, 20], scale=0.5)
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4)


def test_wrong_formulas_would_fail():
    """The comparison above is worth something only if near misses fail it."""
    q, k, v, cu, _ = packed([20], [20], 2, 1, 32)
    right = flash_attention(q, k, v, cu, backend="triton")
    for wrong in (attention_reference(q, k, v, [0, 20], [0, 20], causal=False),
                  attention_reference(q, k, v, [0, 20], [0, 20], scale=1.0),
                  attention_reference(q, k, v, [0, 10, 20], [0, 10, 20])):
        assert relative_error(wrong, right) > 0.05


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_nothing_to_do(backend):
    for tokens in ([], [0], [0, 0]):
        q, k, v, cu, _ = packed(tokens, tokens, 2, 1, 32)
        assert flash_attention(q, k, v, cu, backend=backend).shape == (0, 2, 32)
    q, k, v, cu_q, cu_k = packed([3], [0], 2, 1, 32)
    assert not flash_attention(q, k, v, cu_q, cu_k, backend=backend).any()


def test_errors_state_value_limit_and_remedy():
    x = lambda heads, size=32: torch.randn(4, heads, size)
    with pytest.raises(ValueError, match="3 query heads do not divide into 2 key heads"):
        flash_attention(x(3), x(2), x(2))
    with pytest.raises(ValueError, match="one head size"):
        flash_attention(x(2), x(2, 16), x(2, 16))
    with pytest.raises(ValueError, match="head size is 256.*at most 128.*backend='torch'"):
        flash_attention(x(2, 256), x(2, 256), x(2, 256), backend="triton")
    with pytest.raises(ValueError, match="scale is -1"):
        flash_attention(x(2), x(2), x(2), scale=-1)
    with pytest.raises(ValueError, match="backend='cuda'"):
        flash_attention(x(2), x(2), x(2), backend="cuda")


def test_cost_counts_visible_scores():
    full = cost(8, 8, heads=2, kv_heads=1, head_size=4, bytes_per_value=2, causal=False)
    assert full.flops == 2 * 2 * 4 * 2 * 64 and full.bytes == 2 * (2 * 8 * 2 * 4 + 2 * 8 * 4)
    seen = int(torch.ones(8, 8).tril().sum())
    assert cost(8, 8, 2, 1, 4).flops == 4 * 4 * 2 * seen
    assert cost(3, 8, 2, 1, 4).flops == 4 * 4 * 2 * int(torch.ones(3, 8).tril(5).sum())
