"""One plot style, and three colours that mean the same on every page.

    orange  what YOU predicted      grey  what theory or hardware allows      blue  what was measured

The palette is Okabe and Ito's (2008), which readers with any colour vision can tell apart.
Figures are PNG in 256 colours, rendered 1.5 times as large as they are shown: about 20 KB each.
Not SVG, because JupyterLab hides SVG in a notebook that is not trusted, as a fresh clone never is.
"""

import base64
import io
import textwrap

import matplotlib.pyplot as plt
from IPython import get_ipython
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from aiinfra.lab.markup import Rich

PREDICTION = "#E69F00"   # the reader's guess
BOUND = "#6B6B6B"        # a limit or a formula; drawn dashed where it is a line
MEASURED = "#0072B2"     # what happened
GOOD, BAD = "#009E73", "#D55E00"
EXTRA = ("#CC79A7", "#56B4E9", "#009E73", "#D55E00")   # for curves that are none of the three
RECORDED = "#B8CBDA"     # a result recorded on another machine, drawn behind the reader's own

_RC = {
    "figure.figsize": (7.0, 3.6), "figure.dpi": 96, "figure.facecolor": "white",
    "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.titlepad": 10, "axes.labelcolor": "#333333", "axes.edgecolor": "#999999",
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": "#E6E6E6", "grid.linewidth": 0.8, "xtick.color": "#555555", "ytick.color": "#555555",
    "lines.linewidth": 2.0, "legend.frameon": False, "legend.fontsize": 9,
    "figure.constrained_layout.w_pad": 0.08,
    "axes.prop_cycle": plt.cycler(color=(MEASURED, PREDICTION, *EXTRA)),
}


class Key(Rich):
    """The colour key, shown under a notebook's first cell."""

    tone, head = "note", "Colours on every page:"
    body = "orange = your prediction · grey = the bound · blue = measured"

    def _repr_html_(self) -> str:
        dots = ((PREDICTION, "your prediction"), (BOUND, "the bound: what theory or hardware allows"),
                (MEASURED, "measured on your machine"))
        return " &emsp; ".join(f'<span style="color:{colour};font-size:140%">&#9679;</span> {name}'
                               for colour, name in dots)


def use() -> Key:
    """Set the style for this notebook and return the colour key; the first cell ends in it."""
    plt.rcParams.update(_RC)
    shell = get_ipython()
    if shell is not None:                 # first the inline backend registers its own way, then we replace it
        from matplotlib_inline.backend_inline import set_matplotlib_formats
        set_matplotlib_formats("png")
        shell.display_formatter.formatters["image/png"].for_type(Figure, png)
    return Key()


def png(fig: Figure, sharpness: float = 1.5) -> tuple[str, dict[str, int]]:
    """The figure as base64 PNG with 256 colours, and the size in CSS pixels it is meant to have."""
    raw, small = io.BytesIO(), io.BytesIO()
    fig.savefig(raw, format="png", dpi=sharpness * fig.dpi, bbox_inches="tight")
    image = Image.open(raw).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    image.save(small, format="png", optimize=True)
    width, height = image.size
    return base64.b64encode(small.getvalue()).decode(), {"width": round(width / sharpness),
                                                              "height": round(height / sharpness)}


def axes(xlabel: str, ylabel: str, title: str = "", size: tuple[float, float] = (7.0, 3.6),
         columns: int = 1, **options) -> tuple[Figure, Axes]:
    """A figure with labelled axes, units in brackets: axes("age [years]", "height [cm]").

    With columns > 1 the second value is an array of Axes, all with the same labels.
    `options` go to `plt.subplots` (sharey=True, …).
    """
    fig, ax = plt.subplots(1, columns, figsize=size, layout="constrained", **options)
    for one in (ax if columns > 1 else [ax]):
        one.set(xlabel=xlabel, ylabel=ylabel)
    title = textwrap.fill(title, int(11 * size[0]))          # about as many characters as fit above the axes
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold") if columns > 1 else ax.set_title(title)
    return fig, ax
