"""The picture of a puzzle's tiling: what one program touches.

Orange tiles are what the program writes or keeps, blue ones what it reads, in the order of their numbers,
and a hatched part is cut off by the mask.
"""

import io
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from puzzles.tiling import Panel, Tile

_OWN, _SWEEP, _REST, _INK = "#E69F00", "#56B4E9", "#E8EAED", "#444444"
_INCHES = 0.42                           # of a tile; the lengths below are in tiles
_GAP, _MARGIN, _LEAST_WIDTH, _TOP = 1.2, 0.7, 17.0, 1.1
_TILE = 0.9                              # side of the drawn square
_LETTERS = 8.5
_KEY = ("orange: what one program writes or keeps    blue: what it reads, in this order    "
        "hatched: cut off by the mask")


@dataclass(frozen=True, repr=False)
class Picture:
    """Panels side by side and a key below; a PNG, which a notebook shows even before it is trusted."""

    title: str
    panels: tuple[Panel, ...]

    def _repr_png_(self) -> tuple[bytes, dict[str, str]]:
        needed = _MARGIN + sum(one.width + _GAP for one in self.panels)
        width = max(_LEAST_WIDTH, needed)
        height = max(one.rows for one in self.panels) + 1.9
        figure = Figure(figsize=(width * _INCHES, height * _INCHES), dpi=100)
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        left = _MARGIN
        for one in self.panels:
            _draw(axes, one, left)
            left += one.width + _GAP
        axes.text(_MARGIN, height - 0.25, _KEY, fontsize=_LETTERS, color=_INK)
        return _png(figure), {"alt": self.words}

    @property
    def words(self) -> str:
        """The picture for who cannot see it."""
        return f"Picture of {self.title}: {'; '.join(one.words for one in self.panels)}"

    def __repr__(self) -> str:
        shapes = [f"{one.name} {one.rows}x{one.columns} tiles" for one in self.panels]
        return f"Picture({self.title!r}: {', '.join(shapes)})"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def _draw(axes: Axes, one: Panel, left: float) -> None:
    small = dict(fontsize=_LETTERS, color=_INK)
    middle = _TOP + one.rows / 2
    axes.text(left, 0.42, one.name, fontsize=9, fontweight="bold", color=_INK)
    axes.text(left, 0.95, one.label_columns, **small)
    axes.text(left - 0.25, middle, one.label_rows, rotation=90, va="center", ha="center", **small)
    for row in range(one.rows):
        for column in range(one.columns):
            _draw_tile(axes, one, (row, column), left + column, _TOP + row)


def _draw_tile(axes: Axes, one: Panel, tile: Tile, x: float, y: float) -> None:
    half = _TILE / 2
    axes.add_patch(Rectangle((x, y), _TILE, _TILE, color=_colour(one, tile), lw=0))
    if one.is_cut_right(tile):
        _hatch(axes, x + half, y, half, _TILE)
    if one.is_cut_below(tile):
        _hatch(axes, x, y + half, _TILE, half)
    if tile in one.sweep and len(one.sweep) > 1:
        number = str(one.sweep.index(tile) + 1)
        middle = half / 2 if one.is_cut_right(tile) else half
        axes.text(x + middle, y + 0.6, number, fontsize=_LETTERS, ha="center", color="black")


def _colour(one: Panel, tile: Tile) -> str:
    if tile in one.own:
        return _OWN
    if tile in one.sweep:
        return _SWEEP
    return _REST


def _hatch(axes: Axes, x: float, y: float, width: float, height: float) -> None:
    axes.add_patch(Rectangle((x, y), width, height, facecolor="none", edgecolor=_INK, hatch="//////", lw=0))
