"""A timing is of real work, and its statistics are numpy's."""

import time

import numpy as np
import pytest

from aiinfra.perf import gaps, percentile, time_call


def test_percentiles_are_numpys() -> None:
    values = [3.0, 1.0, 4.0, 1.5, 9.0]
    for q in (0, 10, 50, 75, 99, 100):
        assert percentile(values, q) == pytest.approx(np.percentile(values, q))
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_timing_measures_time() -> None:
    timing = time_call(lambda: time.sleep(0.01), budget_seconds=0, at_least=3, warmup=0)
    assert len(timing.seconds) == 3 and timing.median_seconds >= 0.01 and timing.spread >= 0
    assert len(time_call(lambda: None, budget_seconds=10, at_most=7).seconds) == 7


@pytest.mark.parametrize("spans, expected", [
    ([(2.0, 5.0)], []), ([(3.0, 4.0), (0.0, 1.0)], [2.0]), ([(0.0, 10.0), (1.0, 2.0), (12.0, 13.0)], [2.0]),
    ([(0.0, 1.0), (1.0, 2.0)], []), ([(0.0, 1.0), (2.0, 3.0), (2.5, 2.6), (7.0, 8.0)], [1.0, 4.0]),
])
def test_gaps(spans: list[tuple[float, float]], expected: list[float]) -> None:
    assert [end - start for start, end in gaps(spans)] == expected
