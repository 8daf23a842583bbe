"""Who did what at the same time: a row for each worker, bars from real timestamps, a colour a kind of work.

    rank 0 computes  ████ forward ████ backward ████ wait
           link                    ▒▒▒▒▒ ▒▒▒▒▒▒ ▒▒▒▒▒

Several panels under one another share one axis of time, each from its own beginning, so that two ways of
doing the same can be compared by eye. Notebook 07.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from aiinfra.lab import style


class Bar(NamedTuple):
    """A piece of work: its kind gives it a colour; seconds on any clock that all bars of a panel share."""

    kind: str
    start: float
    end: float
    label: str = ""


Rows = Mapping[str, Sequence[Bar]]

_COLOURS = {
    "forward": "#9CC4E4", "backward": "#5B9BCB", "compute": "#5B9BCB",
    "on the link": style.EXTRA[4], "distribute": style.EXTRA[4],
    "agree": style.EXTRA[0], "copy": style.EXTRA[1],
}
_WAIT = {"facecolor": style.PALE_WASTE, "edgecolor": style.WASTE, "hatch": "////", "linewidth": 0}
_LEAST_LABELLED = 0.02            # of the width: a narrower bar has no room for its label


def draw_concurrent(panels: Mapping[str, Rows], title: str = "") -> Figure:
    """A panel for each of `panels`, title -> rows. A bar of kind "wait" is hatched. Raises ValueError for a
    kind that has no colour."""
    lengths = {name: _ends(rows) for name, rows in panels.items()}
    width = max(end - begin for begin, end in lengths.values())
    heights = [len(rows) + 0.9 for rows in panels.values()]
    size = (8.5, 0.9 + 0.36 * sum(heights))
    fig, axes = style.plt.subplots(
        len(panels), 1, figsize=size, sharex=True, layout="constrained", squeeze=False,
        gridspec_kw={"height_ratios": heights})
    for ax, (name, rows) in zip(axes[:, 0], panels.items()):
        begin, _ = lengths[name]
        _panel(ax, rows, begin, width)
        ax.set_title(name, fontsize=10, pad=4)
    axes[-1, 0].set_xlabel("time [ms]")
    kinds = [bar.kind for rows in panels.values() for bars in rows.values() for bar in bars]
    fig.legend(handles=_legend(list(dict.fromkeys(kinds))), loc="outside lower center", ncols=6)
    if title:
        fig.suptitle(title, **style.TITLE)
    style.plt.close(fig)                  # shown once, as the cell's result
    return fig


def _ends(rows: Rows) -> tuple[float, float]:
    bars = [bar for row in rows.values() for bar in row]
    return min(bar.start for bar in bars), max(bar.end for bar in bars)


def _panel(ax: Axes, rows: Rows, begin: float, width: float) -> None:
    for y, bars in enumerate(rows.values()):
        for bar in bars:
            start = 1e3 * (bar.start - begin)
            length = 1e3 * (bar.end - bar.start)
            ax.broken_barh([(start, length)], (y - 0.4, 0.8), **_look(bar.kind))
            if bar.label and bar.end - bar.start > _LEAST_LABELLED * width:
                ax.text(start + length / 2, y, bar.label, ha="center", va="center", fontsize=8)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set_xlim(0, 1e3 * width)
    style.top_down(ax)


def _look(kind: str) -> dict:
    if kind == "wait":
        return _WAIT
    if kind not in _COLOURS:
        raise ValueError(f"{kind!r} has no colour. There are: {', '.join(_COLOURS)}, wait.")
    return {"facecolor": _COLOURS[kind], "edgecolor": "white", "linewidth": 0.6}


def _legend(kinds: Sequence[str]) -> list[Patch]:
    return [Patch(label=kind, **_look(kind)) for kind in kinds]
