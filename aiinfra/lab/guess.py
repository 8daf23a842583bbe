"""Predict first, measure second: the reader's guess is written down before the answer is known.

    predict("01.rate", …)  ──slider or call──►  store  ──►  compare("01.rate", bound=…, measured=…)

A wrong guess that was written down teaches; a right one after the fact does not. With no
guess everything goes on ("no guess yet"). Used by every notebook.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aiinfra.lab import store, style
from aiinfra.lab.markup import Rich, box

_QUIET = "#767676"


def number(value: float) -> str:
    """A number for people: 3 significant digits, thousands separated, powers of ten far out."""
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.2e}"
    decimals = 2 - math.floor(math.log10(abs(value)))
    text = f"{value:,.{max(0, decimals)}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text


@dataclass(frozen=True, repr=False)
class Prediction(Rich):
    """A question with a scale. Shown as a slider where a kernel runs, as a sentence elsewhere."""

    name: str
    question: str
    unit: str
    low: float
    high: float
    tone = "calm"

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
        return f'{scale} In JupyterLab this is a slider; predict("{self.name}", guess=…) does the same.'

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

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        bundle = {"text/plain": repr(self), "text/markdown": self._repr_markdown_()}
        panel = _panel(self)
        if panel is None:
            return {**bundle, "text/html": self._repr_html_()}
        return panel._repr_mimebundle_() | bundle


def _panel(prediction: Prediction):
    """The slider with its question, or None where widgets are not installed."""
    try:
        import ipywidgets as widgets
    except ImportError:
        return None
    control = _control(widgets, prediction)
    note = widgets.HTML(_note(prediction, ""))

    def moved(change) -> None:
        trouble = prediction.record(change["new"])
        note.value = _note(prediction, trouble)

    control.observe(moved, names="value")
    question = widgets.HTML(box("note", "Predict", prediction.question))
    low, high = widgets.HTML(_grey(prediction.low)), widgets.HTML(_grey(prediction.high))
    row = widgets.HBox([low, control, high, note], layout=widgets.Layout(margin="0 0 0 16px"))
    return widgets.VBox([question, row])


def _control(widgets, prediction: Prediction):
    """The slider, at the guess or in the middle of its scale."""
    low, high = prediction.low, prediction.high
    middle = (low + high) / 2
    guess = prediction.guess
    common = {"continuous_update": False, "readout": False, "layout": widgets.Layout(width="420px")}
    if prediction.log:
        start = guess or math.sqrt(low * high)
        low, high = math.log10(low), math.log10(high)
        step = (high - low) / 200
        return widgets.FloatLogSlider(value=start, min=low, max=high, step=step, **common)
    start = middle if guess is None else guess
    step = (high - low) / 200
    return widgets.FloatSlider(value=start, min=low, max=high, step=step, **common)


def _grey(value: float) -> str:
    return f'<span style="color:{_QUIET}">{number(value)}</span>'


def _note(prediction: Prediction, trouble: str) -> str:
    guess = prediction.guess
    text, colour = "move the slider: no guess yet", _QUIET
    if guess is not None:
        text = f"your guess: {number(guess)} {prediction.unit}"
        colour = style.PREDICTION_TEXT
    return f'<b style="color:{colour};margin-left:12px">{text}</b> {trouble}'


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
    prediction.record(guess)
    return prediction


class _Bar(NamedTuple):
    label: str
    value: float | None
    colour: str


def compare(name: str, measured: float, bound: float | None = None, bound_label: str = "bound",
            measured_label: str = "measured", unit: str | None = None, question: str | None = None) -> Figure:
    """One figure with guess, bound and measurement as bars; make it the last line of a cell.

    Question, unit and guess are those of `predict(name, …)` unless given here. The scale is
    logarithmic, with dots for bars, if the values span a factor of 30 or more.
    """
    kept = store.read("guesses", name)
    if unit is None:
        unit = kept.get("unit", "")
    bars = [_Bar("your prediction", kept.get("guess"), style.PREDICTION)]
    if bound is not None:
        bars.append(_Bar(bound_label, bound, style.BOUND))
    bars.append(_Bar(measured_label, measured, style.MEASURED))
    title = question or kept.get("question", "")
    title = title[:1].upper() + title[1:]
    height = 0.9 + 0.42 * len(bars)
    fig, ax = style.axes(f"[{unit}]" if unit else "", "", title, size=(7.0, height))
    _draw(ax, bars, unit)
    style.plt.close(fig)                  # shown once, as the cell's result
    return fig


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
