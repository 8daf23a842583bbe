"""One plot style, and three colours that mean the same on every page.

    orange  what YOU predicted      grey  what theory or hardware allows      blue  what was measured

The three are Okabe and Ito's (2008), which readers with any colour vision can tell apart. They belong to
nothing else: every other series takes one of EXTRA, what is rented or waited for in vain is WASTE, and light
greys draw what is no series at all. So a page writes no colour by its number, and a test says that the
palettes do not meet. Figures are PNG in 256 colours, rendered 1.5 times as large as they are shown: about 20
KB each. Not SVG, because JupyterLab hides SVG in a notebook that is not trusted, as a fresh clone never is.
"""

import base64
import io
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from IPython import get_ipython
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from PIL import Image

from aiinfra.lab.markup import Rich

PREDICTION = "#E69F00"        # the reader's guess
PREDICTION_TEXT = "#9A6A00"   # the same, dark enough to be read
BOUND = "#6B6B6B"             # a limit or a formula; drawn dashed where it is a line
MEASURED = "#0072B2"          # what happened
RECORDED = "#B8CBDA"          # a result recorded on another machine, drawn behind the reader's own

GOOD, BAD = "#009E73", "#D55E00"     # a verdict: right or wrong, fits or does not
EXTRA = ("#AA4499", "#44AA99", "#999933", "#882255", "#DDCC77")     # series that are none of the three
WASTE = "#CC6677"             # paid for and not used: empty seats, reserved memory, idle time
PALE_WASTE = "#EBC6CC"        # a surface of it
TENANTS = (*EXTRA, "#117733", "#332288", "#661100")                 # who owns a block: one colour a request

PALE, LIGHT = "#EEEEEE", "#BBBBBB"   # no series: a surface where nothing is; thin lines and edges
TEXT = "#666666"              # remarks inside a figure
READABLE = 4.5                # contrast that WCAG 2 (AA) wants of words

TITLE = {"x": 0.01, "ha": "left", "fontsize": 11, "fontweight": "bold"}     # of a figure with several axes
_LETTERS = 10                 # of a bold title fit into an inch

_RC = {
    "figure.figsize": (7.0, 3.6),
    "figure.dpi": 96,
    "figure.facecolor": "white",
    "figure.constrained_layout.w_pad": 0.08,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelcolor": "#333333",
    "axes.edgecolor": "#999999",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": plt.cycler(color=(MEASURED, *EXTRA)),
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "lines.linewidth": 2.0,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


class Key(Rich):
    """The colour key, shown under a notebook's first cell."""

    tone = "note"
    head = "Colours on every page:"
    body = "orange = your prediction · grey = the bound · blue = measured"

    def _repr_html_(self) -> str:
        meanings = {PREDICTION: "your prediction",
                    BOUND: "the bound: what theory or hardware allows",
                    MEASURED: "measured on your machine"}
        dots = []
        for colour, meaning in meanings.items():
            dots.append(f'<span style="color:{colour};font-size:140%">&#9679;</span> {meaning}')
        return " &emsp; ".join(dots)


def use() -> Key:
    """Set the style for this notebook and return the colour key. `lab.start` does so for a page."""
    plt.rcParams.update(_RC)
    shell = get_ipython()
    if shell is not None:                 # first the inline backend registers its own way, then we replace it
        from matplotlib_inline.backend_inline import set_matplotlib_formats
        set_matplotlib_formats("png")
        shell.display_formatter.formatters["image/png"].for_type(Figure, png)
        shell.display_formatter.formatters["text/plain"].for_type(Figure, _print_words)
    return Key()


def _print_words(fig: Figure, printer: Any, cycle: bool) -> None:
    printer.text(words(fig))


def png(fig: Figure, sharpness: float = 1.5) -> tuple[str, dict[str, Any]]:
    """The figure as base64 PNG with 256 colours; the size in CSS pixels it is meant to have, and its text
    (alt)."""
    raw, small = io.BytesIO(), io.BytesIO()
    fig.savefig(raw, format="png", dpi=sharpness * fig.dpi, bbox_inches="tight")
    image = Image.open(raw).convert("RGB")
    image = image.quantize(256, dither=Image.Dither.NONE)
    image.save(small, format="png", optimize=True)
    width, height = image.size
    shown = {"width": round(width / sharpness), "height": round(height / sharpness), "alt": words(fig)}
    return base64.b64encode(small.getvalue()).decode(), shown


def readable(colour: str) -> str:
    """A series' colour for words in a figure: as much black in it as makes its contrast to white 4.5:1."""
    for share in range(0, 100, 5):
        darker = tuple(part * (100 - share) / 100 for part in to_rgb(colour))
        if contrast_to_white(darker) >= READABLE:
            return to_hex(darker)
    return "#000000"


def contrast_to_white(colour: tuple[float, float, float]) -> float:
    """WCAG 2's contrast of a colour, its parts from 0 to 1, on a white surface: 1 to 21."""
    red, green, blue = map(_linear, colour)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return 1.05 / (luminance + 0.05)


def _linear(part: float) -> float:
    if part <= 0.04045:
        return part / 12.92
    return ((part + 0.055) / 1.055) ** 2.4


def words(fig: Figure) -> str:
    """A figure for who cannot see it: its titles, and what stands along its axes."""
    parts = [fig.get_suptitle()]
    for ax in fig.axes:
        parts += [ax.get_title(loc="left"), ax.get_title(), *_along(ax)]
    said = [" ".join(part.split()) for part in parts if part.strip()]
    return "Figure: " + "; ".join(dict.fromkeys(said)) if said else "Figure"


def _along(ax: Axes) -> list[str]:
    across, up = ax.get_xlabel(), ax.get_ylabel()
    if across and up:
        return [f"{up} against {across}"]
    return [across or up]


def axes(xlabel: str, ylabel: str, title: str = "", size: tuple[float, float] = (7.0, 3.6),
         columns: int = 1, **options) -> tuple[Figure, Axes]:
    """A figure with labelled axes, units in brackets: axes("age [years]", "height [cm]").

    With columns > 1 the second value is an array of Axes, all with the same labels.
    `options` go to `plt.subplots` (sharey=True, …).
    """
    fig, panels = plt.subplots(1, columns, figsize=size, layout="constrained", squeeze=False, **options)
    panels = panels[0]                                           # the only row
    for ax in panels:
        ax.set(xlabel=xlabel, ylabel=ylabel)
    title = textwrap.fill(title, int(_LETTERS * size[0]))
    if columns > 1:
        fig.suptitle(title, **TITLE)
        return fig, panels
    panels[0].set_title(title)
    return fig, panels[0]


def top_down(ax: Axes) -> None:
    """Let the y axis list names, the first one on top: it needs no lines across the figure."""
    if not ax.yaxis_inverted():
        ax.invert_yaxis()
    ax.grid(axis="y", visible=False)


def tiled(ax: Axes, edges: Sequence[float], labels: bool = False) -> None:
    """White lines over a map, where its tiles meet; with `labels`, the edges' numbers along the axes."""
    ax.set(xticks=edges, yticks=edges)
    ax.tick_params(labelbottom=labels, labelleft=labels, length=0)
    ax.grid(color="white", lw=1)
    ax.set_axisbelow(False)
