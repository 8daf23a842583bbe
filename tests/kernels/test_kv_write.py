"""KV write: each token lands in its slot, and nothing else changes."""

import pytest
import torch
from tests.kernels.kernel_checks import DEVICE, on_device, unwritten_is_nan  # noqa: F401

from aiinfra.kernels.kv_write import cost, kv_write

P = 4
pytestmark = pytest.mark.usefixtures("unwritten_is_nan", "on_device")


def caches(blocks=6, heads=2, size=32, dtype=torch.float32):
    return torch.full((blocks, P, heads, size), 7.0, dtype=dtype), torch.full((blocks, P, heads, size), -7.0,
                                                                              dtype=dtype)


def written_by_hand(k, v, slots, k_cache, v_cache):
    for row, slot in enumerate(slots.tolist()):
        if slot >= 0:
            k_cache[slot // P, slot % P] = k[row].to(k_cache.dtype)
            v_cache[slot // P, slot % P] = v[row].to(v_cache.dtype)


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("heads, size", [(1, 32), (3, 64), (8, 80), (2, 128)])
@pytest.mark.parametrize("tokens", [0, 1, 9])
def test_equals_the_loop(backend, heads, size, tokens):
    torch.manual_seed(tokens)
    k, v = torch.randn(tokens, heads, size), torch.randn(tokens, heads, size)
    slots = torch.randperm(6 * P)[:tokens]
    slots[1::3] = -1
    got, want = caches(heads=heads, size=size), caches(heads=heads, size=size)
    kv_write(k, v, *got, slots, backend=backend)
    written_by_hand(k, v, slots, *want)
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_views_of_a_projection_and_another_dtype(backend):
    torch.manual_seed(0)
    qkv = torch.randn(5, 4 + 2 + 2, 32)
    _, k, v = qkv.split([4, 2, 2], 1)
    slots = torch.tensor([23, -1, 0, 9, 10])
    got, want = caches(dtype=torch.float16), caches(dtype=torch.float16)
    kv_write(k, v, *got, slots, backend=backend)
    written_by_hand(k, v, slots, *want)
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])
    assert not torch.equal(got[0], caches(dtype=torch.float16)[0])


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_all_rows_padding_writes_nothing(backend):
    got = caches()
    kv_write(torch.randn(3, 2, 32), torch.randn(3, 2, 32), *got, torch.full((3,), -1), backend=backend)
    assert torch.equal(got[0], caches()[0]) and torch.equal(got[1], caches()[1])


def test_errors_state_value_limit_and_remedy():
    k, (k_cache, v_cache), slots = torch.randn(3, 2, 32), caches(), torch.arange(3)
    with pytest.raises(ValueError, match=r"equal K and Dh"):
        kv_write(k[:, :1], k[:, :1], k_cache, v_cache, slots)
    with pytest.raises(ValueError, match="one int64 for each of 3 rows"):
        kv_write(k, k, k_cache, v_cache, slots.int())
    with pytest.raises(ValueError, match="must be contiguous"):
        kv_write(k, k, k_cache[:, ::2], v_cache[:, ::2], slots)
    with pytest.raises(ValueError, match=r"from 0 to 24; this cache has 0 … 23"):
        kv_write(k, k, k_cache, v_cache, torch.tensor([0, 1, 24]))


def test_cost():
    assert cost(10, 2, 32, 2).bytes == 10 * (2 * 2 * (2 * 32 * 2) + 8)
