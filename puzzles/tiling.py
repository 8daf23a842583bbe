"""The picture of a puzzle's tiling, drawn from a few words.

    panel("x", 1, 4, own=[(0, 1)], ragged_columns=True)

is a row of four tiles of which one program (orange) owns the second, and the last is cut off by a
mask (hatched). Blue tiles are what the same program sweeps over in a loop, in the order of the
numbers. Every puzzle shows what *one* program touches, because that is how a kernel is written.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

_OWN, _SWEEP, _REST, _INK = "#E69F00", "#56B4E9", "#E8EAED", "#444444"
_INCHES, _GAP, _MARGIN, _LEAST = 0.42, 1.2, 0.7, 13.8  # of a tile; in tiles: between panels, at the left, in all
_KEY = "orange: what one program writes or keeps    blue: what it reads, in this order    hatched: cut off by the mask"


@dataclass(frozen=True)
class Panel:
    """One tensor as rows x columns of tiles. Tiles are (row, column)."""

    name: str
    rows: int
    columns: int
    own: tuple[tuple[int, int], ...] = ()
    sweep: tuple[tuple[int, int], ...] = ()
    ragged_rows: bool = False
    ragged_columns: bool = False
    label_rows: str = ""
    label_columns: str = ""

    @property
    def width(self) -> float:
        """Tiles across, counting what its title needs."""
        return max(self.columns, 0.21 * len(self.name), 0.16 * len(self.label_columns))


def panel(
    name: str,
    rows: int,
    columns: int,
    own: Sequence[tuple[int, int]] = (),
    sweep: Sequence[tuple[int, int]] = (),
    ragged: str = "",
    labels: tuple[str, str] = ("", ""),
) -> Panel:
    """Shorthand: `ragged` holds "r" and/or "c" where the last row or column of tiles is masked."""
    return Panel(name, rows, columns, tuple(own), tuple(sweep), "r" in ragged, "c" in ragged, *labels)


@dataclass(frozen=True, repr=False)
class Picture:
    """Panels side by side and a key below; a PNG, which a notebook shows even before it is trusted."""

    title: str
    panels: tuple[Panel, ...]

    def _repr_png_(self) -> bytes:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        width = max(_LEAST, sum(p.width + _GAP for p in self.panels) + _MARGIN)
        height = max(p.rows for p in self.panels) + 1.9
        figure = Figure(figsize=(width * _INCHES, height * _INCHES), dpi=100)
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        left = _MARGIN
        for one in self.panels:
            _draw(axes, one, left)
            left += one.width + _GAP
        axes.text(_MARGIN, height - 0.25, _KEY, fontsize=7.5, color=_INK)
        buffer = io.BytesIO()
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
        return buffer.getvalue()

    def __repr__(self) -> str:
        return f"Picture({self.title!r}: {', '.join(f'{p.name} {p.rows}x{p.columns} tiles' for p in self.panels)})"


def _draw(axes, p: Panel, left: float) -> None:
    axes.text(left, 0.4, p.name, fontsize=9, fontweight="bold", color=_INK)
    axes.text(left, 0.85, p.label_columns, fontsize=7.5, color=_INK)
    axes.text(
        left - 0.25, 1.0 + p.rows / 2, p.label_rows, fontsize=7.5, rotation=90, va="center", ha="center", color=_INK
    )
    for row in range(p.rows):
        for column in range(p.columns):
            _draw_tile(axes, p, (row, column), left + column, 1.0 + row)


def _draw_tile(axes, p: Panel, at: tuple[int, int], x: float, y: float) -> None:
    from matplotlib.patches import Rectangle
    colour = _OWN if at in p.own else _SWEEP if at in p.sweep else _REST
    axes.add_patch(Rectangle((x, y), 0.9, 0.9, color=colour, lw=0))
    cuts = [(x + 0.45, y, 0.45, 0.9)] * (p.ragged_columns and at[1] == p.columns - 1)
    cuts += [(x, y + 0.45, 0.9, 0.45)] * (p.ragged_rows and at[0] == p.rows - 1)
    for left, top, width, height in cuts:
        axes.add_patch(Rectangle((left, top), width, height, facecolor="none", edgecolor=_INK, hatch="//////", lw=0))
    if at in p.sweep and len(p.sweep) > 1:
        axes.text(x + 0.45, y + 0.6, str(p.sweep.index(at) + 1), fontsize=8, ha="center", color="white")
