"""HSTU attention: the fused kernel equals the formula and the dense composition, gradients included."""

import math

import pytest
import torch
import torch.nn.functional as F
from tests.kernels.hstu_inputs import NAMES, SampleHistories
from tests.kernels.kernel_checks import DEVICE, on_device, relative_error, unwritten_is_nan  # noqa: F401

from aiinfra.kernels.hstu_attention import cost, hstu_attention, hstu_reference, naive_hstu

BLOCK = 16          # the interpreter's tile
pytestmark = pytest.mark.usefixtures("unwritten_is_nan", "on_device")


LENGTHS = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 37]


def test_without_tables():
    data = SampleHistories([5, 17])
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
    data = SampleHistories([4, 3], heads=1, size=32, max_len=5, per_head=False)
    want = torch.zeros_like(data.v)
    for start, end in ((0, 4), (4, 7)):
        for i in range(start, end):
            asked = int(data.times[min(i + 1, end - 1)])
            for j in range(start, i + 1):
                bucket = min(int(math.log(max(abs(asked - int(data.times[j])), 1)) / 0.301), 128)
                s = float(data.q[i, 0] @ data.k[j, 0]) * data.alpha
                # 11 entries: distance 0 is the 6th
                s += float(data.position[5 + j - i]) + float(data.time[bucket])
                want[i, 0] += s / (1 + math.exp(-s)) / 5 * data.v[j, 0]
    for backend in ("torch", "triton"):
        got = hstu_attention(data.q, data.k, data.v, data.offsets, data.times, data.position, data.time,
                             max_len=5, alpha=data.alpha, backend=backend)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("per_head", [False, True])
def test_dense_composition_agrees_with_one_hot_and_without(per_head):
    data = SampleHistories([0, 5, 17, 1], per_head=per_head, max_len=20)
    want = data.formula()
    for one_hot in (True, False):
        for name, got, right in zip(NAMES, data.run(naive_hstu, data.offsets, torch.float64, one_hot=one_hot),
                                    want):
            assert relative_error(got, right) < 1e-12, name


def test_wrong_formulas_would_fail():
    """Each mistake must stand out from the rounding that the tests above allow."""
    data = SampleHistories([9, 18], max_len=30)
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
    data = SampleHistories([9, 18, 16])
    before = data.fused()
    for x in (data.q, data.k, data.v):
        x[9:27] = torch.nan
    after = data.fused()
    for a, b in zip(before[:4], after[:4]):
        assert torch.equal(a[:9], b[:9]) and torch.equal(a[27:], b[27:]) and b[9:27].isnan().all()


@pytest.mark.slow
def test_strides_need_not_be_contiguous():
    data = SampleHistories([17, 6])
    want = data.fused()
    qkv = torch.cat([data.q, data.k, data.v], -1)
    data.q, data.k, data.v = qkv.split(32, -1)
    data.dy = data.dy.repeat_interleave(2, -1)[..., ::2]
    assert all(torch.equal(a, b) for a, b in zip(data.fused(), want))


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_nothing_to_do(backend):
    for lengths in ([], [0], [0, 0]):
        data = SampleHistories(lengths, max_len=4)
        y = hstu_attention(data.q, data.k, data.v, data.offsets, data.times, data.position, data.time,
                           max_len=4, backend=backend)
        assert y.shape == (0, 2, 32)


def test_errors_state_value_limit_and_remedy():
    data = SampleHistories([4])
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
