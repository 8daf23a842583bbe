"""Paged attention: any block table, any chunking and any split give plain attention's answer."""

import pytest
import torch
import torch.nn.functional as F
from tests.kernels.kernel_checks import DEVICE, on_device, relative_error, unwritten_is_nan  # noqa: F401

from aiinfra.kernels.kv_write import kv_write
from aiinfra.kernels.paged_attention import cost, paged_attention

P = 8
BACKENDS = ["torch", "triton"]
pytestmark = pytest.mark.usefixtures("unwritten_is_nan", "on_device")


def batch(contexts, news, heads=4, kv_heads=2, size=32, dtype=torch.float32, seed=0, fill=float("nan")):
    """Random keys and values scattered over random blocks of a cache whose other entries are `fill`."""
    g = torch.Generator(DEVICE).manual_seed(seed)
    blocks = [-(-c // P) for c in contexts]
    total = sum(blocks) + 3
    free = torch.randperm(total, generator=g).tolist()
    width = max(blocks, default=0) + 2
    tables = torch.full((len(contexts), width), 2 ** 30, dtype=torch.int32)     # following one would crash
    k_cache, v_cache = torch.full((2, total, P, kv_heads, size), fill, dtype=dtype)
    keys, values = [], []
    for b, context in enumerate(contexts):
        mine = [free.pop() for _ in range(blocks[b])]
        tables[b, :len(mine)] = torch.tensor(mine, dtype=torch.int32)
        slots = torch.tensor([mine[i // P] * P + i % P for i in range(context)], dtype=torch.int64)
        k, v = torch.randn(2, context, kv_heads, size, generator=g).to(dtype)
        kv_write(k, v, k_cache, v_cache, slots, backend="torch")
        keys.append(k), values.append(v)
    q = torch.randn(sum(news), heads, size, generator=g).to(dtype)
    starts = torch.tensor([0, *news]).cumsum(0, dtype=torch.int32)
    arguments = (q, k_cache, v_cache, tables, torch.tensor(contexts, dtype=torch.int32))
    return arguments, starts, keys, values


def expected(q, starts, keys, values):
    """Float64 softmax, request by request, with no cache at all."""
    out = torch.zeros(q.shape, dtype=torch.float64)
    for b, (k, v) in enumerate(zip(keys, values)):
        rows, context = q[starts[b]:starts[b + 1]].double(), len(k)
        if not len(rows) or not context:
            continue
        k, v = (x.double().repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        scores = torch.einsum("thd,shd->hts", rows, k) / q.shape[-1] ** 0.5
        hidden = ~torch.ones(len(rows), context, dtype=torch.bool).tril(context - len(rows))
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1).nan_to_num(0.0)
        out[starts[b]:starts[b + 1]] = torch.einsum("hts,shd->thd", weights, v)
    return out


CONTEXTS = [1, 15, 16, 17, 40, 0, P, 33]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("heads, kv_heads, size", [(1, 1, 32), (3, 1, 64), (8, 1, 80), (4, 2, 128)])
@pytest.mark.parametrize("splits", [None, 3])
def test_decode(backend, heads, kv_heads, size, splits):
    arguments, starts, keys, values = batch(CONTEXTS, [1] * len(CONTEXTS), heads, kv_heads, size)
    got = paged_attention(*arguments, splits=splits, backend=backend)
    torch.testing.assert_close(got.double(), expected(arguments[0], starts, keys, values), rtol=1e-5,
                               atol=1e-5)
    assert not got[5].any(), "context length 0 must give 0"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("heads, kv_heads, size", [(1, 1, 32), (6, 2, 64), (8, 1, 32)])
def test_mixed_prefill_chunks_and_decode(backend, heads, kv_heads, size):
    contexts, news = [20, 1, 40, 17, 33, 0, 16, 5], [20, 1, 7, 1, 17, 0, 15, 5]
    arguments, starts, keys, values = batch(contexts, news, heads, kv_heads, size)
    got = paged_attention(*arguments, starts, backend=backend)
    torch.testing.assert_close(got.double(), expected(arguments[0], starts, keys, values), rtol=1e-5,
                               atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("splits", [None, 3])
@pytest.mark.parametrize("decodes", [0, 1, 4, 6])
def test_decodes_that_stand_first_may_have_a_launch_of_their_own(backend, splits, decodes):
    """Of the six requests of one token any number may be called decodes; 48 rows of q are nobody's."""
    contexts, news = [33, 40, 1, 0, 70, 16, 20, 40, 17, 150], [1] * 6 + [20, 7, 2, 150]
    arguments, starts, keys, values = batch(contexts, news, 8, 1)              # a tile has 2 tokens
    q = torch.cat([arguments[0], torch.full((48, 8, 32), torch.nan)])
    got = paged_attention(q, *arguments[1:], starts, decodes=decodes, splits=splits, backend=backend)
    want = expected(arguments[0], starts, keys, values)
    torch.testing.assert_close(got[:len(want)].double(), want, rtol=1e-5, atol=1e-5)
    assert not got[len(want):].any()


@pytest.mark.parametrize("splits", [1, 2, 5, 7])
def test_number_of_splits_changes_only_rounding(splits):
    arguments, starts, keys, values = batch([100, 3, 49, 0], [1] * 4)
    got = paged_attention(*arguments, splits=splits, backend="triton")
    torch.testing.assert_close(got.double(), expected(arguments[0], starts, keys, values), rtol=1e-5,
                               atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_prompt_in_chunks_equals_the_prompt_at_once(backend):
    """The invariant that chunked prefill rests on; the whole prompt is compared with SDPA."""
    torch.manual_seed(0)
    T, H, K, Dh = 37, 4, 2, 32
    q, k, v = torch.randn(T, H, Dh), torch.randn(T, K, Dh), torch.randn(T, K, Dh)
    table = torch.tensor([[3, 0, 4, 1, 2]], dtype=torch.int32)
    slots = torch.stack([table[0, i // P] * P + i % P for i in range(T)]).long()
    caches, parts, done = (torch.zeros(5, P, K, Dh), torch.zeros(5, P, K, Dh)), [], 0
    for chunk in (16, 1, 17, 3):
        new = slice(done, done + chunk)
        kv_write(k[new], v[new], *caches, slots[new], backend=backend)
        done += chunk
        parts.append(paged_attention(q[new], *caches, table, torch.tensor([done], dtype=torch.int32),
                                     torch.tensor([0, chunk], dtype=torch.int32), backend=backend))
    want = F.scaled_dot_product_attention(*(x.transpose(0, 1)[None] for x in (q, k, v)), is_causal=True,
                                          enable_gqa=True)[0].transpose(0, 1)
    torch.testing.assert_close(torch.cat(parts), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_past_the_last_request_are_zero(backend):
    arguments, starts, _, _ = batch([9, 4], [3, 1])
    q = torch.cat([arguments[0], torch.full((5, 4, 32), torch.nan)])
    got = paged_attention(q, *arguments[1:], starts, backend=backend)
    assert torch.equal(got[:4], paged_attention(*arguments, starts, backend=backend)) and not got[4:].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_request_cannot_touch_another(backend):
    arguments, starts, _, _ = batch([20, 24, 17], [3, 5, 1])
    before = paged_attention(*arguments, starts, backend=backend)
    q, k_cache, v_cache, tables, _ = arguments
    q[3:8] = torch.nan
    for cache in (k_cache, v_cache):
        cache[tables[1, :3].long()] = torch.nan
    after = paged_attention(*arguments, starts, backend=backend)
    assert torch.equal(before[:3], after[:3])
    assert torch.equal(before[8:], after[8:])
    assert after[3:8].isnan().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("news", [[3, 1], [1, 1]], ids=["chunk", "decode"])
def test_q_may_be_a_view_and_half_as_precise(backend, dtype, news):
    arguments, starts, keys, values = batch([20, 9], news, dtype=dtype)
    wide = torch.randn(sum(news), 8, 32).to(dtype)
    wide[:, :4] = arguments[0]
    got = paged_attention(wide[:, :4], *arguments[1:], starts, backend=backend)
    assert got.dtype == dtype
    want = expected(arguments[0], starts, keys, values)
    assert relative_error(got, want) < 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_to_do(backend):
    arguments, starts, _, _ = batch([], [])
    assert paged_attention(*arguments, backend=backend).shape == (0, 4, 32)
    assert paged_attention(*arguments, starts, backend=backend).shape == (0, 4, 32)


def test_wrong_readings_would_fail():
    """Off by one key, another scale or another block must not pass for the right answer."""
    arguments, starts, keys, values = batch([20, 33], [1, 1], fill=0.5)
    q, k_cache, v_cache, tables, contexts = arguments
    want = expected(q, starts, keys, values)
    swapped = tables.clone()
    swapped[1, 0] = tables[0, 0]                      # one block of request 0 in request 1's table
    for wrong in (paged_attention(q, k_cache, v_cache, tables, contexts - 1, backend="triton"),
                  paged_attention(*arguments, scale=1.0, backend="triton"),
                  paged_attention(q, k_cache, v_cache, swapped, contexts, backend="triton")):
        assert relative_error(wrong, want) > 0.02


def test_errors_state_value_limit_and_remedy():
    (q, k_cache, v_cache, tables, contexts), starts, _, _ = batch([20, 9], [3, 1])
    with pytest.raises(ValueError, match="3 query heads do not divide into 2"):
        paged_attention(q[:, :3], k_cache, v_cache, tables, contexts, starts)
    with pytest.raises(ValueError, match="4 rows of q, 2 block tables, 2 context lengths"):
        paged_attention(q, k_cache, v_cache, tables, contexts)
    with pytest.raises(ValueError, match="decodes=3; there are 2 requests"):
        paged_attention(q, k_cache, v_cache, tables, contexts, starts, decodes=3)
    with pytest.raises(ValueError, match="float16.*convert q"):
        paged_attention(q.half(), k_cache, v_cache, tables, contexts, starts)
    with pytest.raises(ValueError, match="contiguous"):
        paged_attention(q, k_cache.transpose(0, 1), v_cache, tables, contexts, starts)
    with pytest.raises(ValueError, match="head size is 256"):
        wide = torch.zeros(1, P, 1, 256)
        paged_attention(torch.zeros(1, 1, 256), wide, wide, tables[:1], contexts[:1], backend="triton")


def test_cost_is_the_cache_once():
    decode = cost([100, 50], [1, 1], heads=8, kv_heads=2, head_size=4, bytes_per_value=2)
    assert decode.bytes == 2 * 4 * (2 * 150 * 2 + 2 * 2 * 8) and decode.flops == 4 * 4 * 8 * 150
