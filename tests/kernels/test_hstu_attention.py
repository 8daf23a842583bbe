"""HSTU attention: the fused kernel equals the formula and the dense composition, gradients included."""

import math

import pytest
import torch
import torch.nn.functional as F
from tests.kernels.kernel_checks import DEVICE, relative_error, unwritten_is_nan  # noqa: F401

from aiinfra.kernels.hstu_attention import cost, hstu_attention, hstu_reference, naive_hstu
from aiinfra.kernels.hstu_bias import time_buckets

BLOCK = 16          # the interpreter's tile
pytestmark = pytest.mark.usefixtures("unwritten_is_nan", "on_device")


@pytest.fixture
def on_device():
    """New tensors live where kernels run."""
    with torch.device(DEVICE):
        yield
LENGTHS = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 37]


class Histories:
    """Unit-scale inputs: scores of several units, where SiLU is neither s / 2 nor s."""

    def __init__(self, lengths, heads=2, size=32, value_size=32, max_len=None, per_head=True, seed=0):
        g = torch.Generator(DEVICE).manual_seed(seed)
        total, self.max_len = sum(lengths), max_len or max(lengths)
        self.q, self.k = torch.randn(2, total, heads, size, generator=g)
        self.v = torch.randn(total, heads, value_size, generator=g)
        self.dy = torch.randn(total, heads, value_size, generator=g)
        self.offsets = torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32)
        gaps = torch.randn(total, generator=g, dtype=torch.float64).mul(4).exp()           # seconds to months
        self.times = 1_700_000_000 + gaps.cumsum(0).long()
        lead = (heads,) if per_head else ()
        self.position = torch.randn(*lead, 2 * self.max_len + 1, generator=g)              # M = max_len + 1
        self.time = torch.randn(*lead, 129, generator=g)
        self.alpha = 0.3

    def tensors(self, dtype):
        return [x.detach().to(dtype).requires_grad_() for x in (self.q, self.k, self.v, self.position, self.time)]

    def run(self, function, offsets, dtype=torch.float32, **options):
        """Output and the five gradients."""
        q, k, v, position, time = inputs = self.tensors(dtype)
        y = function(q, k, v, offsets, self.times, position, time, max_len=self.max_len, alpha=self.alpha, **options)
        return y.detach(), *torch.autograd.grad(y, inputs, self.dy.to(dtype))

    def fused(self):
        return self.run(hstu_attention, self.offsets, backend="triton")

    def formula(self):
        return self.run(hstu_reference, self.offsets.tolist(), torch.float64)


NAMES = ("y", "dq", "dk", "dv", "d_position", "d_time")


@pytest.mark.parametrize("heads, size, value_size, per_head", [
    (1, 32, 32, False), (2, 64, 32, True), (3, 32, 80, False), (1, 128, 128, True)])
def test_output_and_all_gradients_against_float64(heads, size, value_size, per_head):
    data = Histories(LENGTHS, heads, size, value_size, max_len=40, per_head=per_head)
    assert (torch.einsum("ihd,jhd->hij", data.q, data.k) * data.alpha).abs().max() > 3
    for name, got, want in zip(NAMES, data.fused(), data.formula()):
        assert got.shape == want.shape and relative_error(got, want) < 5e-6, name


def test_without_tables():
    data = Histories([5, 17])
    q, k, v = (x.detach().requires_grad_() for x in (data.q, data.k, data.v))
    for tables in ((None, None), (data.position, None), (None, data.time)):
        got = hstu_attention(q, k, v, data.offsets, data.times, *tables, max_len=17, backend="triton")
        want = hstu_reference(q.double(), k.double(), v.double(), [0, 5, 22], data.times,
                              *(None if t is None else t.double() for t in tables), max_len=17)
        assert relative_error(got, want) < 2e-6
    y = hstu_attention(q, k, v, data.offsets, max_len=17, backend="triton")       # no timestamps either
    y.backward(data.dy)
    assert q.grad.isfinite().all()


def test_formula_against_a_loop_over_scalars():
    """One score at a time, with the table indices written out."""
    data = Histories([4, 3], heads=1, size=32, max_len=5, per_head=False)
    want = torch.zeros_like(data.v)
    for start, end in ((0, 4), (4, 7)):
        for i in range(start, end):
            asked = int(data.times[min(i + 1, end - 1)])
            for j in range(start, i + 1):
                bucket = min(int(math.log(max(abs(asked - int(data.times[j])), 1)) / 0.301), 128)
                s = float(data.q[i, 0] @ data.k[j, 0]) * data.alpha
                s += float(data.position[5 + j - i]) + float(data.time[bucket])    # 11 entries: distance 0 is the 6th
                want[i, 0] += s / (1 + math.exp(-s)) / 5 * data.v[j, 0]
    for backend in ("torch", "triton"):
        got = hstu_attention(data.q, data.k, data.v, data.offsets, data.times, data.position, data.time,
                             max_len=5, alpha=data.alpha, backend=backend)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_gradcheck_of_the_formula():
    data = Histories([3, 0, 2], heads=1, size=4, value_size=3)
    assert torch.autograd.gradcheck(
        lambda q, k, v, p, t: hstu_reference(q, k, v, [0, 3, 3, 5], data.times, p, t, max_len=3, alpha=0.3),
        data.tensors(torch.float64))


@pytest.mark.parametrize("per_head", [False, True])
def test_dense_composition_agrees_with_one_hot_and_without(per_head):
    data = Histories([0, 5, 17, 1], per_head=per_head, max_len=20)
    want = data.formula()
    for one_hot in (True, False):
        for name, got, right in zip(NAMES, data.run(naive_hstu, data.offsets, torch.float64, one_hot=one_hot), want):
            assert relative_error(got, right) < 1e-12, name


def test_wrong_formulas_would_fail():
    """Each mistake must stand out from the rounding that the tests above allow."""
    data = Histories([9, 18], max_len=30)
    right = data.fused()[0]
    q, k, v, offsets = data.q, data.k, data.v, [0, 9, 27]
    tables = dict(position_table=data.position, time_table=data.time)

    def formula(activation=F.silu, offsets=offsets, times=data.times, max_len=30, **tables):
        original, F.silu = F.silu, activation
        try:
            return hstu_reference(q, k, v, offsets, times, max_len=max_len, alpha=data.alpha, **tables)
        finally:
            F.silu = original

    assert relative_error(formula(**tables), right) < 1e-5
    wrong = {
        "SiLU taken for s / 2": formula(activation=lambda s: s / 2, **tables),
        "ReLU": formula(activation=F.relu, **tables),
        "no position bias": formula(time_table=data.time),
        "no time bias": formula(position_table=data.position),
        "position table reversed": formula(position_table=data.position.flip(-1), time_table=data.time),
        "own time in place of the next item's": formula(times=data.times.roll(1), **tables),
        "reads across sequences": formula(offsets=[0, 27], **tables),
        "n is another length": formula(max_len=18, **tables),
    }
    for mistake, y in wrong.items():
        assert relative_error(y, right) > 0.01, mistake


def test_one_history_cannot_touch_another_even_with_nan():
    data = Histories([9, 18, 16])
    before = data.fused()
    for x in (data.q, data.k, data.v):
        x[9:27] = torch.nan
    after = data.fused()
    for a, b in zip(before[:4], after[:4]):
        assert torch.equal(a[:9], b[:9]) and torch.equal(a[27:], b[27:]) and b[9:27].isnan().all()


def test_table_gradients_are_the_same_in_every_run():
    data = Histories([37, 20])
    assert all(torch.equal(a, b) for a, b in zip(data.fused(), data.fused()))


def test_strides_need_not_be_contiguous():
    data = Histories([17, 6])
    want = data.fused()
    qkv = torch.cat([data.q, data.k, data.v], -1)
    data.q, data.k, data.v = qkv.split(32, -1)
    data.dy = data.dy.repeat_interleave(2, -1)[..., ::2]
    assert all(torch.equal(a, b) for a, b in zip(data.fused(), want))


def test_time_buckets_match_at_every_edge():
    """Both sides of each bucket's edge, kernel against float64, by a history of one item and its successor."""
    starts = [math.exp(0.301 * b) for b in range(1, 128)]       # nearer than 1e-5 either side is right
    edges = [0, 1, 2] + [x for e in starts for x in (math.floor(e * (1 - 1e-5)), math.ceil(e * (1 + 1e-5)))]
    size, count = 16, len(edges)
    q = k = torch.zeros(2 * count, 1, size)
    v = torch.zeros(2 * count, 1, size)
    v[0::2] = 1.0                                               # the second row of each pair sees its first
    times = torch.tensor([t for e in edges for t in (1_000, 1_000 + e)])
    table = torch.arange(1.0, 130.0)                            # SiLU keeps the order
    offsets = torch.arange(0, 2 * count + 1, 2, dtype=torch.int32)
    got = hstu_attention(q, k, v, offsets, times, None, table, max_len=2, backend="triton")[1::2, 0, 0] * 2
    assert torch.allclose(got, F.silu(1.0 + time_buckets(torch.tensor(edges)).float()))
    assert time_buckets(torch.tensor([0, 1, -1, 2 ** 62])).tolist() == [0, 0, 0, 128]


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_nothing_to_do(backend):
    for lengths in ([], [0], [0, 0]):
        data = Histories(lengths, max_len=4)
        y = hstu_attention(data.q, data.k, data.v, data.offsets, data.times, data.position, data.time,
                           max_len=4, backend=backend)
        assert y.shape == (0, 2, 32)


def test_errors_state_value_limit_and_remedy():
    data = Histories([4])
    arguments = (data.q, data.k, data.v, data.offsets)
    with pytest.raises(ValueError, match=r"position_table is \(2, 9\); for max_len=8 .* at least 15"):
        hstu_attention(*arguments, data.times, data.position, max_len=8)
    with pytest.raises(ValueError, match="timestamps is None"):
        hstu_attention(*arguments, None, None, data.time, max_len=4)
    with pytest.raises(ValueError, match="time_table has 131 entries; there are 129"):
        hstu_attention(*arguments, data.times, None, torch.zeros(131), max_len=4)
    with pytest.raises(ValueError, match="max_len is 0"):
        hstu_attention(*arguments, max_len=0)
    with pytest.raises(ValueError, match="q is"):
        hstu_attention(data.q, data.k[:3], data.v, data.offsets, max_len=4)
    with pytest.raises(ValueError, match="head size is 256"):
        wide = torch.zeros(4, 1, 256)
        hstu_attention(wide, wide, wide, data.offsets, max_len=4, backend="triton")


def test_cost_counts_visible_scores():
    assert cost([3, 1], heads=2, head_size=4, value_size=8).flops == 2 * (6 + 1) * 2 * (4 + 8)
