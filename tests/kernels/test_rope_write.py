"""RoPE and cache write in one kernel: what the two do one after the other, and nothing else is touched."""

import pytest
import torch
from tests.kernels.kernel_checks import DEVICE, on_device, randn  # noqa: F401
from tests.kernels.kernel_checks import relative_error, unwritten_is_nan  # noqa: F401
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from aiinfra.kernels.kv_write import kv_write
from aiinfra.kernels.rope import cost as rope_cost
from aiinfra.kernels.rope import rope, rope_tables
from aiinfra.kernels.rope_write import cost, rope_write

P = 4
pytestmark = pytest.mark.usefixtures("unwritten_is_nan", "on_device")
BACKENDS = pytest.mark.parametrize("backend", ["torch", "triton"])


def inputs(tokens: int, heads: int, kv_heads: int, size: int, dtype=torch.float32):
    """q, k and v as views of one projection, each token's angles as views of wide tables, and slots."""
    qkv = randn(tokens, (heads + 2 * kv_heads) * size, dtype=dtype).unflatten(1, (-1, size))
    q, k, v = qkv.split([heads, kv_heads, kv_heads], 1)
    positions = (torch.arange(tokens) * 7 + 3) % 50
    tables = [table[positions].to(dtype) for table in rope_tables(50, size, device=DEVICE)]
    cos, sin = (torch.cat([table, table], -1) for table in tables)
    slots = torch.randperm(6 * P)[:tokens]
    slots[1::3] = -1
    return q, k, v, cos[:, :size // 2], sin[:, size // 2:], slots


def caches(kv_heads: int, size: int, dtype=torch.float32):
    return [torch.full((6, P, kv_heads, size), number, dtype=dtype) for number in (7.0, -7.0)]


def by_transformers(q, k, v, cos, sin, slots, k_cache, v_cache):
    """In float64, with the rotation of transformers' Llama and a loop over the slots."""
    wide = [x.double() for x in (q, k, v)]
    heads_first = [x.transpose(0, 1)[None] for x in wide[:2]]                        # [1, H, N, Dh]
    both = [torch.cat([table, table], -1).double()[None] for table in (cos, sin)]
    turned_q, turned_k = (x[0].transpose(0, 1) for x in apply_rotary_pos_emb(*heads_first, *both))
    k_cache, v_cache = k_cache.double(), v_cache.double()
    for row, slot in enumerate(slots.tolist()):
        if slot >= 0:
            k_cache[slot // P, slot % P], v_cache[slot // P, slot % P] = turned_k[row], wide[2][row]
    return turned_q, k_cache, v_cache


@BACKENDS
@pytest.mark.parametrize("tokens", [0, 1, 7])
@pytest.mark.parametrize("heads, kv_heads, size", [(1, 1, 2), (9, 3, 64), (6, 2, 6), (8, 8, 96), (5, 1, 128)])
def test_equals_transformers_and_a_loop(backend, tokens, heads, kv_heads, size):
    q, k, v, cos, sin, slots = inputs(tokens, heads, kv_heads, size)
    got = caches(kv_heads, size)
    wanted = by_transformers(q, k, v, cos, sin, slots, *got)
    turned = rope_write(q, k, v, cos, sin, *got, slots, backend=backend)
    for one, other in zip((turned, *got), wanted, strict=True):
        assert relative_error(one, other) < 1e-6
    assert torch.equal(got[1].double(), wanted[2])                      # values are copied, not computed


@BACKENDS
def test_bfloat16_rounds_once(backend):
    q, k, v, cos, sin, slots = inputs(7, 9, 3, 64, torch.bfloat16)
    got = caches(3, 64, torch.bfloat16)
    wanted = by_transformers(q, k, v, cos, sin, slots, *got)
    turned = rope_write(q, k, v, cos, sin, *got, slots, backend=backend)
    for one, other in zip((turned, *got), wanted, strict=True):
        assert ((one.double() - other).abs() <= 1.01 * 2**-8 * other.abs() + 1e-6).all()


@BACKENDS
def test_is_rope_and_then_kv_write(backend):
    """To the last bit, also into a cache of another dtype."""
    q, k, v, cos, sin, slots = inputs(7, 4, 2, 32)
    got, want = caches(2, 32, torch.float16), caches(2, 32, torch.float16)
    turned = rope_write(q, k, v, cos, sin, *got, slots, backend=backend)
    turned_q, turned_k = rope(q, k, torch.arange(7), cos, sin, backend=backend)
    kv_write(turned_k, v, *want, slots, backend=backend)
    assert torch.equal(turned, turned_q) and all(map(torch.equal, got, want))
    assert not torch.equal(got[0], caches(2, 32, torch.float16)[0])


@BACKENDS
def test_padding_turns_and_writes_nothing(backend):
    q, k, v, cos, sin, slots = inputs(3, 4, 2, 32)
    got = caches(2, 32)
    turned = rope_write(q, k, v, cos, sin, *got, torch.full_like(slots, -1), backend=backend)
    assert turned.isfinite().all() and all(map(torch.equal, got, caches(2, 32)))


@BACKENDS
def test_views_with_gaps(backend):
    q, k, v, cos, sin, slots = inputs(3, 4, 2, 16)
    wide = [x.repeat_interleave(2, -1)[..., ::2] for x in (q, k, v)]        # neighbours are two apart
    got, want = caches(2, 16), caches(2, 16)
    turned = rope_write(*wide, cos.contiguous(), sin.contiguous(), *got, slots, backend=backend)
    assert torch.equal(turned, rope_write(q, k, v, cos, sin, *want, slots, backend=backend))
    assert all(map(torch.equal, got, want))


def test_errors_state_value_and_remedy():
    q, k, v, cos, sin, slots = inputs(3, 4, 2, 8)
    ours = caches(2, 8)
    with pytest.raises(ValueError, match=r"pass \[N, H, Dh\] and twice \[N, K, Dh\]"):
        rope_write(q, k, v[:, :1], cos, sin, *ours, slots)
    with pytest.raises(ValueError, match="N=3 and Dh=8"):
        rope_write(q, k, v, cos[:, :2], sin, *ours, slots)
    with pytest.raises(ValueError, match=r"both must be \[blocks, P, K, Dh\]"):
        rope_write(q, k, v, cos, sin, *caches(3, 8), slots)
    with pytest.raises(ValueError, match="must be contiguous"):
        rope_write(q, k, v, cos, sin, *(cache[:, ::2] for cache in ours), slots)
    with pytest.raises(ValueError, match="one int64 for each of 3 rows"):
        rope_write(q, k, v, cos, sin, *ours, slots.int())
    with pytest.raises(ValueError, match=r"this cache has 0 … 23"):
        rope_write(q, k, v, cos, sin, *ours, torch.tensor([0, 1, 24]))


def test_cost_is_that_of_two_without_the_keys_between():
    """kv_write reads turned keys that rope has written: once each, and neither is needed."""
    written = 10 * (2 * 2 * (2 * 32) + 8)                                   # values in and out, and slots
    assert cost(10, 4, 2, 32).bytes == rope_cost(10, 4, 2, 32).bytes + written
