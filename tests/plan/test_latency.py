"""Targets, and percentiles of values that are only counted."""

import random

import pytest

from aiinfra.perf import percentile
from aiinfra.plan.latency import Classes, LatencyTarget


def test_percentiles_of_counted_values_are_those_of_a_list() -> None:
    draw = random.Random(0)
    values = [draw.lognormvariate(-3, 1) for _ in range(5000)]
    half, rest = Classes(), Classes()
    for value in values[:2500]:
        half.add(value)
    for value in values[2500:]:
        rest.add(value)
    half.update([rest])
    for q in (1, 50, 90, 99):
        assert half.percentile(q) == pytest.approx(percentile(values, q), rel=0.01)
    with pytest.raises(ValueError, match="a percentile of no values"):
        Classes().percentile(50)


def test_a_request_is_in_time_if_both_are() -> None:
    target = LatencyTarget(ttft_seconds=2, tpot_seconds=0.05)
    assert target.met(2, 0.05) and not target.met(2.1, 0.01) and not target.met(0.1, 0.06)
    with pytest.raises(ValueError, match="seconds must be above 0"):
        LatencyTarget(ttft_seconds=0, tpot_seconds=1)
