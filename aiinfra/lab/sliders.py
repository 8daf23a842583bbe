"""One slider an idea, and a figure that is there even where no slider can be.

    explore(draw, rate=(0.001, 0.02, 0.01))
       ├─ the figure for the starting values: an ordinary output, kept in the file
       └─ the controls: each move calls draw(rate=…) and replaces that same figure

So a code host shows the figure, JupyterLab the figure and a slider that changes it, and a
machine without ipywidgets the figure alone. A slider of whole numbers may have a button that plays
it, as a film. Used by every notebook.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from IPython.display import display
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from aiinfra.lab.numbers import slider_of, steps

_LOG_STEPS = 100
_MANY = 1000        # from here on a number is written with a comma, which a slider of integers does not do
_FRAME = 300        # milliseconds from one frame of a film to the next: enough for Matplotlib to draw it


@dataclass(frozen=True)
class Slider:
    """A numeric control: scale, start, step (None: 1/100 of the scale), how it is labelled, whether it can be
    played."""

    low: float
    high: float
    start: float
    step: float | None = None
    log: bool = False
    label: str | None = None
    play: bool = False

    @property
    def whole(self) -> bool:
        """True if it gives integers."""
        numbers = (self.low, self.high, self.start, self.step or 1)
        return all(isinstance(number, int) for number in numbers)

    @property
    def scale(self) -> str:
        """The scale in words: 1 to 1000, log."""
        words = f"{self.low} to {self.high}"
        if self.step is not None:
            words += f" in steps of {self.step}"
        if self.log:
            words += ", log"
        return words


def slider(low: float, high: float, start: float, step: float | None = None, log: bool = False,
           label: str | None = None, play: bool = False) -> Slider:
    """A control for `explore` that needs more than (low, high, start): a log scale, a label or a play button.

    With log=True, low and high are values (1e-4, 1), not exponents. Integers give integers. play=True is for
    integers: a button beside the slider moves it on by a step some three times a second, as far as `high`.
    """
    return Slider(low=low, high=high, start=start, step=step, log=log, label=label, play=play)


def explore(draw: Callable[..., Figure], **controls: Any) -> None:
    """Show draw(**starting values) and the controls that redraw it. Call it last in a cell.

    Each control is (low, high, start) or (low, high, start, step), a `slider(…)`, a list of
    choices (the first is the start) or a bool. `draw` must return a Figure. Raises ValueError
    for a start outside its scale, and for a scale to be played that is not of integers.
    """
    specs = {name: _spec(name, control) for name, control in controls.items()}
    widgets = _widgets(specs)
    if widgets:
        _show_controls(widgets, specs)
    start = {name: _start(spec) for name, spec in specs.items()}
    handle = display(_closed(draw(**start)), display_id=True)

    def redraw(_change) -> None:
        values = {name: widget.value for name, widget in widgets.items()}
        handle.update(_closed(draw(**values)))

    for widget in widgets.values():
        widget.observe(redraw, names="value")


def _spec(name: str, control: Any) -> Any:
    """The control, a tuple of numbers as a Slider. Raises ValueError if its numbers do not fit together."""
    if isinstance(control, tuple):
        control = Slider(*control)
    if not isinstance(control, Slider):
        return control
    if not control.low <= control.start <= control.high:
        raise ValueError(
            f"explore: {name} starts at {control.start}, outside [{control.low}, {control.high}]."
        )
    if control.play and (control.log or not control.whole):
        raise ValueError(
            f"explore: {name} cannot be played from {control.scale}: its frames must be integers. "
            "Play their numbers: slider(0, len(frames) - 1, 0, play=True)."
        )
    return control


def _start(spec: Any) -> Any:
    if isinstance(spec, Slider):
        return spec.start
    if isinstance(spec, list):
        return spec[0]
    return spec


def _closed(fig: Figure) -> Figure:
    plt.close(fig)                        # or the inline backend would show it a second time
    return fig


def _widgets(specs: dict[str, Any]) -> dict[str, Any]:
    """One widget for each control; none where ipywidgets is not installed."""
    try:
        import ipywidgets
    except ImportError:
        return {}
    return {name: _widget(ipywidgets, name, spec) for name, spec in specs.items()}


def _widget(ipywidgets, name: str, spec: Any):
    label = getattr(spec, "label", None) or name.replace("_", " ")
    common = {"description": label, "style": {"description_width": "120px"}}
    wide = common | {"layout": ipywidgets.Layout(width="520px")}
    if isinstance(spec, bool):
        return ipywidgets.Checkbox(value=spec, indent=False, **common)
    if isinstance(spec, list):
        return ipywidgets.Dropdown(options=spec, value=spec[0], **common)
    return _scale(ipywidgets, spec, **wide)


def _scale(ipywidgets, spec: Slider, **wide: Any):
    """The widget of a numeric control."""
    if spec.log:
        values = steps(spec.low, spec.high, _LOG_STEPS, log=True, whole=spec.whole)
        return slider_of(ipywidgets, {*values, spec.start}, spec.start, **wide)
    if spec.whole and not spec.play and _MANY <= spec.high <= _MANY * (spec.step or 1):
        values = range(spec.low, spec.high + 1, spec.step or 1)
        return slider_of(ipywidgets, {*values, spec.start}, spec.start, **wide)
    scale = {"value": spec.start, "min": spec.low, "max": spec.high}
    if spec.whole:
        return ipywidgets.IntSlider(step=spec.step or 1, **scale, **wide)
    step = spec.step or (spec.high - spec.low) / 100
    return ipywidgets.FloatSlider(step=step, readout_format=".4g", **scale, **wide)


def _show_controls(widgets: dict[str, Any], specs: dict[str, Any]) -> None:
    from ipywidgets import VBox
    rows = []
    for name, widget in widgets.items():
        played = getattr(specs[name], "play", False)
        rows.append(_playable(widget) if played else widget)
    bundle = VBox(rows)._repr_mimebundle_()
    names = ", ".join(widget.description for widget in widgets.values())
    bundle["text/plain"] = f"[run this cell in JupyterLab to move: {names}]"
    display(bundle, raw=True)


def _playable(widget):
    """The slider with its button. They are linked in the browser, which has one move of the slider at a time
    with the kernel and keeps only the latest that waits: a slow drawing leaves frames out, it never falls
    behind."""
    from ipywidgets import HBox, Play, jslink
    scale = {key: getattr(widget, key) for key in ("value", "min", "max", "step")}
    button = Play(interval=_FRAME, show_repeat=False, **scale)
    jslink((button, "value"), (widget, "value"))
    return HBox([widget, button])  # in this order the sliders of several rows are in line
