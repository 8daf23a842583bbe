"""The memory of a training step over time, by kind: of a recorder's moments, or of a prediction's.

    bytes ▲          ╱╲▁
          │       ╱╱╱  ╲╲╲          time is the order of operations: a moment each, not seconds
          │ ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒
          └─forward──loss─backward─►

Both are the same records (perf/memory.py), so one figure draws them. Notebook 05.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aiinfra.lab import style
from aiinfra.perf.memory import IN_FLIGHT, TEMPORARY, MemoryMoment, MemoryPlan

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


def draw_plan(step: MemoryPlan, title: str) -> Figure:
    """A predicted step by itself: its moments, its peak in GB, and how many times the weights that is."""
    times = step.peak / step.parameters
    gigabytes = step.peak / 1e9
    title += f": {gigabytes:.2f} GB, "
    title += f"{times:.1f} times the weights"
    fig, ax = style.axes("layers, in order", "[MB]", title, size=(8, 3.6))
    draw_memory(ax, step.moments)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def draw_rungs(rungs: Mapping[str, tuple[float, float | None]], budget: float) -> None:
    """A bar a rung: its peak in bytes, and beside it how many times the first measured one's seconds it
    takes. Without seconds a bar is pale: it was no step. budget: a line, in bytes."""
    fig, ax = style.axes("peak of one step [MB]", "", "The ladder, measured on this machine", size=(8, 3.6))
    plain = next(seconds for _, seconds in rungs.values() if seconds)
    highest = 0.0
    for row, (nbytes, seconds) in enumerate(rungs.values()):
        end = nbytes / 1e6
        highest = max(highest, end)
        words = f"{end:.0f} MB"
        colour = style.LIGHT
        if seconds:
            factor = seconds / plain
            words += f", time × {factor:.2f}"
            colour = style.MEASURED
        ax.barh(row, end, color=colour)
        _beside(ax, row, end, words)
    limit = budget / 1e6
    ax.axvline(limit, color=style.BOUND, ls="--", label="the budget", zorder=2)
    rows = range(len(rungs))
    ax.set_yticks(rows, rungs)
    ax.set_xlim(0, 1.35 * highest)
    style.top_down(ax)
    ax.legend(loc="lower right")


def draw_shares(peaks: Mapping[str, MemoryMoment], title: str, budget: float) -> None:
    """A bar for each moment, in GB, of as many parts as kinds live in it. budget: a line, in bytes."""
    fig, ax = style.axes("on each rank, at the peak [GB]", "", title, size=(8.5, 3.4))
    rows = range(len(peaks))
    left = [0.0] * len(rows)
    for kind in KINDS:
        widths = [moment.by_kind.get(kind, 0) / 1e9 for moment in peaks.values()]
        if any(widths):
            colour = _COLOURS[kind]
            ax.barh(rows, widths, left=left, color=colour, label=kind)
        left = [at + width for at, width in zip(left, widths, strict=True)]
    for row, end in enumerate(left):
        _beside(ax, row, end, f"{end:.0f} GB")
    limit = budget / 1e9
    ax.axvline(limit, color=style.BOUND, ls="--", zorder=2)
    longest = max(left)
    ax.set_xlim(0, 1.15 * longest)
    ax.set_yticks(rows, peaks)
    style.top_down(ax)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def _beside(ax: Axes, row: int, end: float, words: str) -> None:
    """Words to the right of a bar."""
    gap = (8, 0)
    ax.annotate(words, (end, row), gap, textcoords="offset points", va="center", backgroundcolor="white",
                zorder=3)


def _name_phases(ax: Axes, moments: Sequence[MemoryMoment], top: float) -> None:
    start = 0
    for phase, group in groupby(moments, key=lambda moment: moment.phase):
        end = start + len(list(group))
        if start:
            ax.axvline(start, color=style.LIGHT, lw=1)
        if end - start > len(moments) / 12:
            ax.text((start + end) / 2, 0.97 * top, phase, ha="center", va="top", color=style.TEXT)
        start = end
