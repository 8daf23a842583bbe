"""Attention over parts of the keys, joined, is attention over all keys; so are its gradients."""

import pytest
import torch
from tests.kernels.kernel_checks import on_device  # noqa: F401

from aiinfra.kernels.flash_attention import attention_reference
from aiinfra.kernels.partial_attention import join, partial_attention, partial_backward

pytestmark = pytest.mark.usefixtures("on_device")
SCALE = 0.3


def some_heads(*tokens: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """q [N, 4, 8], k and v [M, 2, 8]."""
    torch.manual_seed(0)
    N, M = tokens
    return [torch.randn(rows, heads, 8, dtype=dtype) for rows, heads in ((N, 4), (M, 2), (M, 2))]


def gradients(q, k, v, do, cu_q, cu_k, causal):
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    o = attention_reference(*leaves, cu_q, cu_k, causal, SCALE)
    o.backward(do)
    return o.detach(), [x.grad for x in leaves]


@pytest.mark.parametrize("backend, dtype, near", [("torch", torch.float64, 1e-12),
                                                  ("triton", torch.float32, 1e-4)])
def test_two_parts_are_the_whole(backend: str, dtype: torch.dtype, near: float) -> None:
    q, k, v = some_heads(21, 37, dtype=dtype)
    do = torch.randn_like(q)
    expected, expected_gradients = gradients(q, k, v, do, [0, 21], [0, 37], False)
    halves = [(k[:30], v[:30]), (k[30:], v[30:])]
    parts = [partial_attention(q, *half, scale=SCALE, backend=backend) for half in halves]
    o, lse = join(*parts[0], *parts[1])
    torch.testing.assert_close(o, expected, rtol=near, atol=near)
    back = [partial_backward(q, *half, o, lse, do, scale=SCALE, backend=backend) for half in halves]
    found = [back[0][0] + back[1][0], *(torch.cat(pair) for pair in list(zip(*back))[1:])]
    for got, want in zip(found, expected_gradients):
        torch.testing.assert_close(got, want, rtol=near, atol=near)


@pytest.mark.parametrize("backend, dtype, near", [("torch", torch.float64, 1e-12),
                                                  ("triton", torch.float32, 1e-4)])
def test_sequences_are_causal_and_apart(backend: str, dtype: torch.dtype, near: float) -> None:
    q, k, v = some_heads(25, 25, dtype=dtype)
    do = torch.randn_like(q)
    lengths, borders = [7, 1, 17], [0, 7, 8, 25]
    expected, expected_gradients = gradients(q, k, v, do, borders, borders, True)
    o, lse = partial_attention(q, k, v, lengths, scale=SCALE, backend=backend)
    torch.testing.assert_close(o, expected, rtol=near, atol=near)
    found = partial_backward(q, k, v, o, lse, do, lengths, scale=SCALE, backend=backend)
    for got, want in zip(found, expected_gradients):
        torch.testing.assert_close(got, want, rtol=near, atol=near)


def test_a_part_without_keys_changes_nothing() -> None:
    q, k, v = some_heads(5, 9)
    o, lse = partial_attention(q, k, v, scale=SCALE)
    nothing = torch.zeros_like(o), torch.full_like(lse, -torch.inf)
    for joined in (join(o, lse, *nothing), join(*nothing, o, lse)):
        torch.testing.assert_close(joined, (o, lse))
