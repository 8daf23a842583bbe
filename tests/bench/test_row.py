"""A figure is printed so that it can be compared."""

import pytest

from aiinfra.bench.row import Row, digits


@pytest.mark.parametrize(
    "value, text",
    [
        (1.0857, "1.09"),
        (54.321, "54.3"),
        (157.26, "157"),
        (1234.5, "1,234"),
        (0.05123, "0.0512"),
        (0, "0"),
        (9.999, "10.00"),
        (float("inf"), "inf"),
    ],
)
def test_three_significant_digits(value: float, text: str) -> None:
    assert digits(value) == text


def test_a_ratio_above_one_is_better_for_rates_and_for_times() -> None:
    assert Row("speed", 30.0, "tok/s", 10.0, "them").ratio == 3
    assert Row("wait", 2.0, "s", 6.0, "them").ratio == 3
    assert Row("alone", 1.0857, "").ratio is None and "1.09" in str(Row("alone", 1.0857, ""))
    assert "× 3.00" in str(Row("speed", 30.0, "tok/s", 10.0, "them"))
