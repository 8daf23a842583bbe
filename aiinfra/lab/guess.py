"""Predict first, measure second: the reader's guess is written down before the answer is known.

    predict("01.rate", …)  ──slider or call──►  store  ──►  compare("01.rate", bound=…, measured=…)

A wrong guess that was written down teaches; a right one after the fact does not. With no
guess everything goes on ("no guess yet"). Used by every notebook.
"""

import math
from dataclasses import dataclass, replace
from html import escape
from typing import Any, NamedTuple

from IPython.display import DisplayHandle, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aiinfra.lab import store, style
from aiinfra.lab.markup import Rich, inline
from aiinfra.lab.numbers import number, slider_of, steps

_QUIET = "#6B6B6B"
_STEPS = 200
_FOLDED = "The answer is folded until your guess is on record: make it above, or open it here."


@dataclass(frozen=True, repr=False)
class Prediction(Rich):
    """A question with a scale. Shown as a sentence, which is kept in the file, and a slider where a kernel
    runs."""

    name: str
    question: str
    unit: str
    low: float
    high: float
    trouble: str = ""
    tone = "note"

    @property
    def guess(self) -> float | None:
        """The guess on record, or None."""
        return store.read("guesses", self.name).get("guess")

    @property
    def log(self) -> bool:
        """True if the scale spans a factor of 100 or more: then equal steps are equal ratios."""
        return self.low > 0 and self.high >= 100 * self.low

    @property
    def head(self) -> str:
        """The first line."""
        return "Predict: " + self.question

    @property
    def body(self) -> str:
        """What stands under it."""
        if self.guess is None:
            return "No guess yet."
        return f"Your guess: {number(self.guess)} {self.unit}"

    @property
    def foot(self) -> str:
        """A last line, or nothing."""
        scale = f"Between {number(self.low)} and {number(self.high)} {self.unit}."
        return f'{scale} Move the slider, or call predict("{self.name}", guess=…). {self.trouble}'.strip()

    def record(self, value: float | None) -> str:
        """Write question and guess down. Returns "" or why they could not be kept."""
        record = {
            "guess": value,
            "unit": self.unit,
            "question": self.question,
            "low": self.low,
            "high": self.high,
        }
        return store.write("guesses", self.name, record)

    def _ipython_display_(self) -> None:
        sentence = display(self.bundle(), raw=True, display_id=True)
        control = control_of(self)
        if control is None:
            return

        def moved(change: dict[str, Any]) -> None:
            trouble = self.record(change["new"])
            sentence.update(replace(self, trouble=trouble).bundle(), raw=True)
            _refresh(self.name)

        control.observe(moved, names="value")
        display({**control._repr_mimebundle_(), "text/plain": ""}, raw=True)


def control_of(prediction: Prediction) -> Any:
    """The slider, at the guess or in the middle of its scale; None where widgets are not installed."""
    try:
        import ipywidgets as widgets
    except ImportError:
        return None
    start = prediction.guess
    scale = steps(prediction.low, prediction.high, _STEPS, log=prediction.log)
    if start is None:
        start = scale[len(scale) // 2]
    return slider_of(
        widgets, {*scale, start}, start, layout=widgets.Layout(width="560px", margin="0 0 0 16px")
    )


def predict(name: str, question: str = "", unit: str = "", low: float = 0.0, high: float = 1.0,
            guess: float | None = None) -> Prediction:
    """Ask for a prediction; make it the last line of a cell. `guess=` writes one down by a call.

    Running the cell again keeps and shows the earlier guess. predict("01.rate", guess=0.1) is
    enough if the question was asked before. Raises ValueError for an empty or inverted scale,
    and for a guess that is not a finite number.
    """
    earlier = store.read("guesses", name)
    if not question and "question" in earlier:
        question, unit = earlier["question"], earlier["unit"]
        low, high = earlier["low"], earlier["high"]
    if not low < high:
        raise ValueError(f"predict({name!r}): low={low} is not below high={high}.")
    if guess is not None and not math.isfinite(guess):
        raise ValueError(f"predict({name!r}): guess={guess} is not a number that can be drawn.")
    prediction = Prediction(name=name, question=question or name, unit=unit, low=low, high=high)
    if guess is None:
        guess = prediction.guess                # the earlier one
    return replace(prediction, trouble=prediction.record(guess))


class _Bar(NamedTuple):
    label: str
    value: float | None
    colour: str


@dataclass(frozen=True, repr=False)
class Comparison:
    """Guess, bound and measurement as bars. Folded until there is a guess; a guess made later is drawn at
    once."""

    name: str
    title: str
    unit: str
    bars: tuple[_Bar, ...]

    @property
    def guess(self) -> float | None:
        """The guess on record, or None."""
        return store.read("guesses", self.name).get("guess")

    def figure(self) -> Figure:
        """The guess of now above the other bars."""
        bars = [_Bar("your prediction", self.guess, style.PREDICTION), *self.bars]
        height = 0.9 + 0.42 * len(bars)
        fig, ax = style.axes(f"[{self.unit}]" if self.unit else "", "", self.title, size=(7.0, height))
        _draw(ax, bars, self.unit)
        style.plt.close(fig)              # shown once, as the cell's result
        return fig

    def __repr__(self) -> str:
        values = [f"{bar.label} {number(bar.value)} {self.unit}".strip() for bar in self.bars]
        return f"{self.title} {', '.join(values)}".strip()

    def bundle(self) -> tuple[dict[str, str], dict[str, Any]]:
        """What is shown, by MIME type, and its metadata."""
        fig = self.figure()
        picture, shown = style.png(fig)
        if self.guess is not None:
            return {"image/png": picture, "text/plain": repr(self)}, {"image/png": shown}
        size = f'width="{shown["width"]}" height="{shown["height"]}" alt="{escape(shown["alt"])}"'
        image = f'<img {size} src="data:image/png;base64,{picture}">'
        folded = f"<details><summary>{inline(_FOLDED)}</summary>{image}</details>"
        return {"text/html": folded, "text/plain": repr(self)}, {}

    def _ipython_display_(self) -> None:
        data, metadata = self.bundle()
        handle = display(data, metadata=metadata, raw=True, display_id=True)
        _SHOWN[self.name] = (self, handle)


_SHOWN: dict[str, tuple[Comparison, DisplayHandle]] = (
    {}
)  # the latest of each name, which a moved slider draws anew


def _refresh(name: str) -> None:
    if name in _SHOWN:
        comparison, handle = _SHOWN[name]
        data, metadata = comparison.bundle()
        handle.update(data, metadata=metadata, raw=True)


def compare(
    name: str,
    measured: float,
    bound: float | None = None,
    bound_label: str = "bound",
    measured_label: str = "measured",
    unit: str | None = None,
    question: str | None = None,
) -> Comparison:
    """One figure with guess, bound and measurement as bars; make it the last line of a cell.

    Question, unit and guess are those of `predict(name, …)` unless given here. The scale is
    logarithmic, with dots for bars, if the values span a factor of 30 or more. Without a guess the figure
    is folded: a click opens it.
    """
    kept = store.read("guesses", name)
    if unit is None:
        unit = kept.get("unit", "")
    bars = [_Bar(measured_label, measured, style.MEASURED)]
    if bound is not None:
        bars.insert(0, _Bar(bound_label, bound, style.BOUND))
    title = question or kept.get("question", "")
    title = title[:1].upper() + title[1:]
    return Comparison(name=name, title=title, unit=unit, bars=tuple(bars))


def _draw(ax: Axes, bars: list[_Bar], unit: str) -> None:
    sizes = [abs(bar.value) for bar in bars if bar.value] or [1.0]
    log = _spans_far(bars)
    left, right = 0.0, 1.25 * max(sizes)
    if log:
        ax.set_xscale("log")
        left, right = min(sizes) / 4, 6 * max(sizes)
    for row, bar in enumerate(bars):
        if bar.value is None:
            ax.text(0.01, row, "no guess yet", va="center", color=_QUIET, style="italic",
                    transform=ax.get_yaxis_transform())
            continue
        if log:                           # a bar's length means nothing on a log scale; a place does
            ax.hlines(row, left, right, color=style.PALE, lw=1)
            ax.plot(bar.value, row, "o", ms=10, color=bar.colour)
        else:
            ax.barh(row, bar.value, color=bar.colour, height=0.62)
        text = f"{number(bar.value)} {unit}"
        ax.annotate(text, (bar.value, row), (9, 0), textcoords="offset points", va="center")
    ax.set_yticks(range(len(bars)), [bar.label for bar in bars])
    ax.set(xlim=(left, right), ylim=(len(bars) - 0.4, -0.6))
    ax.grid(axis="y", visible=False)


def _spans_far(bars: list[_Bar]) -> bool:
    """True if all values are above zero and the largest is 30 times the smallest, or more."""
    values = [bar.value for bar in bars if bar.value is not None]
    return min(values) > 0 and max(values) >= 30 * min(values)
