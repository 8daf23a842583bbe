"""The memory of a training step over time, by kind: of a recorder's moments, or of a prediction's.

    bytes ▲          ╱╲▁
          │       ╱╱╱  ╲╲╲          time is the order of operations: a moment each, not seconds
          │ ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒
          └─forward──loss─backward─►

Both are the same records (perf/memory.py), so one figure draws them. Notebook 05.
"""

from collections.abc import Sequence
from itertools import groupby

from matplotlib.axes import Axes

from aiinfra.lab import style
from aiinfra.perf.memory import IN_FLIGHT, TEMPORARY, MemoryMoment

KINDS = ("parameters", "optimizer", "gradients", "activations", "loss", TEMPORARY, IN_FLIGHT)
_COLOURS = dict(zip(KINDS, (*style.EXTRA, style.LIGHT, style.WASTE), strict=True))


def draw_memory(ax: Axes, moments: Sequence[MemoryMoment], top: float | None = None,
                budget: float | None = None) -> None:
    """Areas on top of one another, one a kind that occurs; phases side by side; the peak marked.

    top: the end of the axis in MB, so that figures can be compared. budget: a line, in bytes.
    """
    kinds = [kind for kind in KINDS if any(kind in moment.by_kind for moment in moments)]
    lasting = [*moments, moments[-1]]                # so that the last one has a width, too
    rows = [[moment.by_kind.get(kind, 0) / 1e6 for moment in lasting] for kind in kinds]
    colours = [_COLOURS[kind] for kind in kinds]
    ax.stackplot(range(len(lasting)), rows, labels=kinds, colors=colours, step="post", lw=0)
    highest = max(range(len(moments)), key=lambda i: moments[i].nbytes)
    peak = moments[highest].nbytes / 1e6
    top = top or 1.3 * peak
    ax.plot(highest + 0.5, peak, "v", color=style.MEASURED, ms=7)
    ax.annotate(f"{peak:,.0f} MB", (highest + 0.5, peak), (0, 8), textcoords="offset points", ha="center")
    if budget is not None:
        ax.axhline(budget / 1e6, color=style.BOUND, ls="--", lw=1)
    _name_phases(ax, moments, top)
    ax.set(xlim=(0, len(moments)), ylim=(0, top), xticks=[])


def _name_phases(ax: Axes, moments: Sequence[MemoryMoment], top: float) -> None:
    start = 0
    for phase, group in groupby(moments, key=lambda moment: moment.phase):
        end = start + len(list(group))
        if start:
            ax.axvline(start, color=style.LIGHT, lw=1)
        if end - start > len(moments) / 12:
            ax.text((start + end) / 2, 0.97 * top, phase, ha="center", va="top", color=style.TEXT)
        start = end
