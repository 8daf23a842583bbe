"""A latent cache, whose values are the first part of its keys: the formula, in any chunks and splits."""

import pytest
import torch
from tests.kernels.kernel_checks import DEVICE, on_device, relative_error, unwritten_is_nan  # noqa: F401

from aiinfra.kernels.kv_write import cost as write_cost
from aiinfra.kernels.kv_write import kv_write
from aiinfra.kernels.paged_attention import cost, paged_attention

P = 8
BACKENDS = ["torch", "triton"]
CONTEXTS = [1, 15, 16, 40, 0, P, 33]
pytestmark = pytest.mark.usefixtures("unwritten_is_nan", "on_device")


def batch(contexts, news, heads=4, latent=32, rest=16, dtype=torch.float32, backend="torch"):
    """Random rows scattered over random blocks of one cache, whose other entries are NaN."""
    g = torch.Generator(DEVICE).manual_seed(sum(contexts))
    blocks = [-(-context // P) for context in contexts]
    total = sum(blocks) + 3
    free = torch.randperm(total, generator=g).tolist()
    tables = torch.full((len(contexts), max(blocks) + 2), 2 ** 30, dtype=torch.int32)
    cache = torch.full((total, P, 1, latent + rest), torch.nan, dtype=dtype)
    rows = []
    for b, context in enumerate(contexts):
        mine = [free.pop() for _ in range(blocks[b])]
        tables[b, :len(mine)] = torch.tensor(mine, dtype=torch.int32)
        slots = torch.tensor([mine[i // P] * P + i % P for i in range(context)], dtype=torch.int64)
        rows.append(torch.randn(context, 1, latent + rest, generator=g).to(dtype))
        kv_write(rows[-1], None, cache, None, slots, backend=backend)
    q = torch.randn(sum(news), heads, latent + rest, generator=g).to(dtype)
    starts = torch.tensor([0, *news]).cumsum(0, dtype=torch.int32)
    return (q, cache, cache[..., :latent], tables, torch.tensor(contexts, dtype=torch.int32)), starts, rows


def expected(q, starts, rows, latent):
    """Float64 softmax, request by request, with no cache at all."""
    out = torch.zeros(*q.shape[:-1], latent, dtype=torch.float64)
    for b, row in enumerate(rows):
        new, context = q[starts[b]:starts[b + 1]].double(), len(row)
        if not len(new) or not context:
            continue
        keys = row[:, 0].double()
        scores = torch.einsum("thd,sd->hts", new, keys) / q.shape[-1] ** 0.5
        hidden = ~torch.ones(len(new), context, dtype=torch.bool).tril(context - len(new))
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        out[starts[b]:starts[b + 1]] = torch.einsum("hts,sd->thd", weights, keys[:, :latent])
    return out


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("heads, latent, rest", [
    (4, 32, 16), (3, 20, 6), pytest.param(34, 64, 8, marks=pytest.mark.slow), (16, 512, 64)])
@pytest.mark.parametrize("splits", [None, 3])
def test_decode(backend, heads, latent, rest, splits):
    arguments, starts, rows = batch(CONTEXTS, [1] * len(CONTEXTS), heads, latent, rest, backend=backend)
    got = paged_attention(*arguments, splits=splits, backend=backend)
    wanted = expected(arguments[0], starts, rows, latent)
    torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-5)
    assert not got[4].any(), "context length 0 must give 0"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("heads, latent, rest", [
    (4, 32, 16), (3, 20, 6), pytest.param(34, 16, 2, marks=pytest.mark.slow)])
def test_mixed_prefill_chunks_and_decode(backend, heads, latent, rest):
    contexts, news = [20, 1, 40, 17, 33, 0, 16, 5], [20, 1, 7, 1, 17, 0, 15, 5]
    arguments, starts, rows = batch(contexts, news, heads, latent, rest)
    got = paged_attention(*arguments, starts, backend=backend)
    wanted = expected(arguments[0], starts, rows, latent)
    torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_half_as_precise(backend):
    arguments, starts, rows = batch([20, 9], [3, 1], dtype=torch.bfloat16)
    got = paged_attention(*arguments, starts, backend=backend)
    wanted = expected(arguments[0], starts, rows, 32)
    assert relative_error(got, wanted) < 3 * torch.finfo(torch.bfloat16).eps


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_that_pad_a_batch_are_written_nowhere(backend):
    cache = torch.full((3, P, 1, 12), 7.0)
    kv_write(torch.ones(3, 1, 12), None, cache, None, torch.tensor([4, -1, 9]), backend=backend)
    assert (cache != 7).flatten(2).any(-1).flatten().nonzero().flatten().tolist() == [4, 9]


def test_what_is_no_latent_cache_is_refused():
    (q, cache, values, tables, contexts), starts, _ = batch([9, 4], [3, 1])
    refused = [values.contiguous(), cache[..., 1:33], torch.cat([cache, cache], 2)[:, :, :1, :32]]
    for wrong in refused:
        with pytest.raises(ValueError, match="a view of the first part of its rows"):
            paged_attention(q, cache, wrong, tables, contexts, starts)
    with pytest.raises(ValueError, match="v and v_cache go together"):
        kv_write(cache[0], None, cache, cache, torch.arange(P))
    wide = torch.zeros(1, P, 1, 700)
    with pytest.raises(ValueError, match="latent rows are 600 and 100 values; .* at most 512 and 128"):
        paged_attention(torch.zeros(1, 1, 700), wide, wide[..., :600], tables[:1], contexts[:1],
                        backend="triton")


def test_cost_is_the_row_once():
    decode = cost([100, 50], [1, 1], heads=8, kv_heads=1, head_size=6, latent_size=4)
    assert decode.bytes == 2 * (6 * 150 + 2 * 8 * (6 + 4)) and decode.flops == 2 * (6 + 4) * 8 * 150
    assert write_cost(10, 1, 6, tensors=1).bytes == 10 * (2 * 6 * 2 + 8)
