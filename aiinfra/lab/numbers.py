"""Numbers for people, and sliders that show them while they move.

    number(128)   128      number(1e8)   100 million      number(0.0167)   0.0167
"""

import math
from collections.abc import Iterable
from typing import Any

_WORDS = {1e12: "trillion", 1e9: "billion", 1e6: "million"}
_DIGITS = 3


def number(value: float) -> str:
    """A number for people: 3 significant digits, thousands separated, words for millions, powers of ten far
    out."""
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e15:
        return f"{value:.2e}"
    for size, word in _WORDS.items():
        if abs(value) >= size:
            return f"{number(value / size)} {word}"
    decimals = _DIGITS - 1 - math.floor(math.log10(abs(value)))
    text = f"{value:,.{max(0, decimals)}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text


def steps(low: float, high: float, count: int, log: bool = False, whole: bool = False) -> list[float]:
    """Values from `low` to `high`, both included, in about `count` equal steps; with log=True of ratio, and
    every power of ten is among them.

    Those between the ends have 3 significant digits, so that what is shown is what is meant; whole=True
    rounds them, and leaves out what is there already.
    """
    between = (
        _ratios(low, high, count) if log else [low + (high - low) * step / count for step in range(1, count)]
    )
    between = [float(f"{value:.{_DIGITS}g}") for value in between]
    if whole:
        between = [round(value) for value in between]
    inside = {value for value in between if low < value < high}
    return [low, *sorted(inside), high]


def _ratios(low: float, high: float, count: int) -> list[float]:
    first, last = math.log10(low), math.log10(high)
    a_decade = max(1, round(count / (last - first)))
    return [
        10 ** (step / a_decade)
        for step in range(math.ceil(first * a_decade), math.floor(last * a_decade) + 1)
    ]


def slider_of(widgets: Any, values: Iterable[float], start: float, **options: Any) -> Any:
    """A slider over these values, each shown as `number` says, also while it moves. `widgets` is
    ipywidgets."""
    choices = [(number(value), value) for value in sorted(set(values))]
    return widgets.SelectionSlider(options=choices, value=start, continuous_update=False, **options)
