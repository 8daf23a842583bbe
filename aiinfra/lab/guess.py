"""Predict first, measure second: the reader's guess is written down before the answer is known.

    predict("01.rate", …)  ──slider or call──►  store  ──►  compare("01.rate", bound=…, measured=…)

A wrong guess that was written down teaches; a right one after the fact does not. With no
guess everything goes on ("no guess yet"). Used by every notebook.
"""

import math
from dataclasses import dataclass

from matplotlib.figure import Figure

from aiinfra.lab import store, style
from aiinfra.lab.markup import Rich, box


def number(value: float) -> str:
    """A number for people: 3 significant digits, thousands separated, powers of ten far out."""
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.2e}"
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    text = f"{value:,.{max(0, digits)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


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
        return (f'Between {number(self.low)} and {number(self.high)} {self.unit}. In JupyterLab this is a slider; '
                f'predict("{self.name}", guess=…) does the same.')

    def record(self, value: float | None) -> str:
        """Write question and guess down. Returns "" or why they could not be kept."""
        return store.write("guesses", self.name, {"guess": value, "unit": self.unit, "question": self.question,
                                                  "low": self.low, "high": self.high})

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        bundle = {"text/plain": repr(self), "text/markdown": self._repr_markdown_(), "text/html": self._repr_html_()}
        panel = _panel(self)
        return bundle if panel is None else {**panel._repr_mimebundle_(), "text/plain": repr(self),
                                             "text/markdown": self._repr_markdown_()}


def _panel(prediction: Prediction):
    """The slider with its question, or None where widgets are not installed."""
    try:
        import ipywidgets as widgets
    except ImportError:
        return None
    low, high, guess = prediction.low, prediction.high, prediction.guess
    common = dict(continuous_update=False, readout=False, layout=widgets.Layout(width="420px"))
    if prediction.log:
        middle = math.sqrt(low * high)
        control = widgets.FloatLogSlider(value=guess or middle, min=math.log10(low), max=math.log10(high),
                                         step=(math.log10(high / low)) / 200, **common)
    else:
        start = (low + high) / 2 if guess is None else guess
        control = widgets.FloatSlider(value=start, min=low, max=high, step=(high - low) / 200, **common)
    note = widgets.HTML(_note(prediction, ""))

    def moved(change) -> None:
        note.value = _note(prediction, prediction.record(change["new"]))

    control.observe(moved, names="value")
    ends = [widgets.HTML(f'<span style="color:#767676">{number(end)}</span>') for end in (low, high)]
    return widgets.VBox([widgets.HTML(box("note", "Predict", prediction.question)),
                         widgets.HBox([ends[0], control, ends[1], note],
                                      layout=widgets.Layout(margin="0 0 0 16px"))])


def _note(prediction: Prediction, trouble: str) -> str:
    guess = prediction.guess
    text = "move the slider: no guess yet" if guess is None else f"your guess: {number(guess)} {prediction.unit}"
    colour = "#767676" if guess is None else "#9A6A00"
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
        question, unit, low, high = (earlier[key] for key in ("question", "unit", "low", "high"))
    if not low < high:
        raise ValueError(f"predict({name!r}): low={low} is not below high={high}.")
    prediction = Prediction(name, question or name, unit, low, high)
    if guess is not None:
        if not math.isfinite(guess):
            raise ValueError(f"predict({name!r}): guess={guess} is not a number that can be drawn.")
    prediction.record(prediction.guess if guess is None else float(guess))
    return prediction


def compare(name: str, measured: float, bound: float | None = None, bound_label: str = "bound",
            measured_label: str = "measured", unit: str | None = None, question: str | None = None) -> Figure:
    """One figure with guess, bound and measurement as bars; make it the last line of a cell.

    Question, unit and guess are those of `predict(name, …)` unless given here. The scale is
    logarithmic, with dots for bars, if the values span a factor of 30 or more.
    """
    kept = store.read("guesses", name)
    unit = kept.get("unit", "") if unit is None else unit
    rows = [("your prediction", kept.get("guess"), style.PREDICTION), (bound_label, bound, style.BOUND),
            (measured_label, measured, style.MEASURED)]
    rows = [row for row in rows if row[1] is not None or row[0] == "your prediction"]
    title = question or kept.get("question", "")
    fig, ax = style.axes(f"[{unit}]" if unit else "", "", title[:1].upper() + title[1:],
                         size=(7.0, 0.9 + 0.42 * len(rows)))
    _bars(ax, rows, unit)
    style.plt.close(fig)                  # shown once, as the cell's result
    return fig


def _bars(ax, rows: list[tuple[str, float | None, str]], unit: str) -> None:
    known = [abs(value) for _, value, _ in rows if value]
    log = len(known) > 1 and max(known) >= 30 * min(known) and all(v is None or v > 0 for _, v, _ in rows)
    top = max(known, default=1.0)
    left, right = (min(known) / 4, top * 6) if log else (0.0, top * 1.25)
    ax.set_xscale("log" if log else "linear")
    for row, (label, value, colour) in enumerate(rows):
        if value is None:
            ax.text(0.01, row, "no guess yet", va="center", color="#767676", style="italic",
                    transform=ax.get_yaxis_transform())
            continue
        if log:                           # a bar's length means nothing on a log scale; a place does
            ax.hlines(row, left, right, color="#EEEEEE", lw=1)
            ax.plot(value, row, "o", ms=10, color=colour)
        else:
            ax.barh(row, value, color=colour, height=0.62)
        ax.annotate(f"{number(value)} {unit}", (value, row), (9, 0), textcoords="offset points", va="center")
    ax.set(yticks=range(len(rows)), yticklabels=[label for label, _, _ in rows], xlim=(left, right),
           ylim=(len(rows) - 0.4, -0.6))
    ax.grid(axis="y", visible=False)
