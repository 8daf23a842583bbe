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

_FRAME = 300        # milliseconds from one frame of a film to the next: enough for Matplotlib to draw it


@dataclass(frozen=True)
class Slider:
    """A numeric control: scale, start, step (None: 1/100 of the scale), how it is labelled, whether it can be played."""

    low: float
    high: float
    start: float
    step: float | None = None
    log: bool = False
    label: str | None = None
    play: bool = False


def slider(low: float, high: float, start: float, step: float | None = None, log: bool = False,
           label: str | None = None, play: bool = False) -> Slider:
    """A control for `explore` that needs more than (low, high, start): a log scale, a label or a play button.

    With log=True, low and high are values (1e-4, 1), not exponents. Integers give integers. play=True is for
    integers: a button beside the slider moves it on by a step some three times a second, as far as `high`.
    """
    return Slider(low, high, start, step, log, label, play)


def explore(draw: Callable[..., Figure], **controls: Any) -> None:
    """Show draw(**starting values) and the controls that redraw it. Call it last in a cell.

    Each control is (low, high, start) or (low, high, start, step), a `slider(…)`, a list of
    choices (the first is the start) or a bool. `draw` must return a Figure. Raises ValueError
    for a start outside its scale, and for a scale to be played that is not of integers.
    """
    specs = {name: _spec(name, control) for name, control in controls.items()}
    widgets = _widgets(specs)
    if widgets is not None:
        _show_controls(widgets, specs)
    handle = display(_closed(draw(**{name: _start(spec) for name, spec in specs.items()})), display_id=True)

    def redraw(_change) -> None:
        handle.update(_closed(draw(**{name: widget.value for name, widget in widgets.items()})))

    for widget in (widgets or {}).values():
        widget.observe(redraw, names="value")


def _spec(name: str, control: Any) -> Any:
    spec = Slider(*control) if isinstance(control, tuple) else control
    if isinstance(spec, Slider) and not spec.low <= spec.start <= spec.high:
        raise ValueError(f"explore: {name} starts at {spec.start}, outside [{spec.low}, {spec.high}].")
    if isinstance(spec, Slider) and spec.play and (spec.log or not _whole(spec)):
        scale = f"{spec.low} to {spec.high}" + f" in steps of {spec.step}" * (spec.step is not None) + ", log" * spec.log
        raise ValueError(f"explore: {name} cannot be played from {scale}: its frames must be integers. "
                         "Play their numbers: slider(0, len(frames) - 1, 0, play=True).")
    return spec


def _whole(spec: Slider) -> bool:
    return all(isinstance(value, int) for value in (spec.low, spec.high, spec.start, spec.step or 1))


def _start(spec: Any) -> Any:
    return spec.start if isinstance(spec, Slider) else spec[0] if isinstance(spec, list) else spec


def _closed(fig: Figure) -> Figure:
    plt.close(fig)                        # or the inline backend would show it a second time
    return fig


def _widgets(specs: dict[str, Any]) -> dict[str, Any] | None:
    """One widget for each control, or None where ipywidgets is not installed."""
    try:
        import ipywidgets
    except ImportError:
        return None
    return {name: _widget(ipywidgets, name, spec) for name, spec in specs.items()}


def _widget(ipywidgets, name: str, spec: Any):
    label = (spec.label if isinstance(spec, Slider) else None) or name.replace("_", " ")
    common = dict(description=label, style={"description_width": "120px"})
    wide = dict(common, layout=ipywidgets.Layout(width="520px"))
    if isinstance(spec, bool):
        return ipywidgets.Checkbox(value=spec, indent=False, **common)
    if isinstance(spec, list):
        return ipywidgets.Dropdown(options=spec, value=spec[0], **common)
    if spec.log:
        from math import log10
        low, high = log10(spec.low), log10(spec.high)
        return ipywidgets.FloatLogSlider(value=spec.start, min=low, max=high, readout_format=".4g",
                                         step=spec.step or (high - low) / 100, **wide)
    if _whole(spec):
        return ipywidgets.IntSlider(value=spec.start, min=spec.low, max=spec.high, step=spec.step or 1, **wide)
    return ipywidgets.FloatSlider(value=spec.start, min=spec.low, max=spec.high, readout_format=".4g",
                                  step=spec.step or (spec.high - spec.low) / 100, **wide)


def _show_controls(widgets: dict[str, Any], specs: dict[str, Any]) -> None:
    from ipywidgets import VBox
    rows = [_playable(widget) if getattr(specs[name], "play", False) else widget for name, widget in widgets.items()]
    bundle = VBox(rows)._repr_mimebundle_()
    names = ", ".join(widget.description for widget in widgets.values())
    bundle["text/plain"] = f"[run this cell in JupyterLab to move: {names}]"
    display(bundle, raw=True)


def _playable(widget):
    """The slider with its button. They are linked in the browser, which has one move of the slider at a time with the
    kernel and keeps only the latest that waits: a slow drawing leaves frames out, it never falls behind."""
    from ipywidgets import HBox, Play, jslink
    button = Play(value=widget.value, min=widget.min, max=widget.max, step=widget.step, interval=_FRAME, show_repeat=False)
    jslink((button, "value"), (widget, "value"))
    return HBox([widget, button])                       # in this order the sliders of several rows are in line
