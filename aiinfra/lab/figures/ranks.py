"""Ranks at work: a pipeline's step on one clock, and how sums grow around a ring.

    rank 0 │ F0 F1 F2 F3 ░░░░░░░░░░░ B0 B1 …      ░ a rank that waits: the bubble
    rank 1 │ ░░ F0 F1 F2 F3 ░░░░░ B0 B1 …

A step's timeline (parallel/timing.py) is measured, on the clock that the processes of a machine share, or
calculated from a table: one figure draws both. Notebook 06.
"""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from aiinfra.lab import style
from aiinfra.parallel.schedule import BACKWARD, FORWARD, INPUT, WEIGHT
from aiinfra.parallel.timing import Timeline

_KINDS = {
    FORWARD: ("forward", "#9CC4E4"),
    BACKWARD: ("backward", "#5B9BCB"),
    INPUT: ("backward: inputs", "#5B9BCB"),
    WEIGHT: ("backward: weights", "#7FC4B8"),
}
_WAITS = {"facecolor": style.PALE_WASTE, "edgecolor": style.WASTE, "hatch": "////", "linewidth": 0}
_MOST_NUMBERED = 40               # actions of a rank whose micro-batch is still readable


def draw_timeline(timeline: Timeline, title: str, unit: str = "ms") -> Figure:
    """A row a rank, a bar an action with its micro-batch's number; hatched where the rank waits. unit: ms for
    a timeline in seconds, or the unit that it is in."""
    scale = 1e3 if unit == "ms" else 1.0
    begin = min(span.start for span in timeline.spans)
    width = scale * timeline.seconds
    fig, ax = style.axes(f"time [{unit}]", "", title, size=(8.5, 1.1 + 0.42 * timeline.ranks))
    for rank in range(timeline.ranks):
        ax.broken_barh([(0, width)], (rank - 0.4, 0.8), **_WAITS)
    numbered = len(timeline.spans) <= _MOST_NUMBERED * timeline.ranks
    for span in timeline.spans:
        start = scale * (span.start - begin)
        length = scale * (span.end - span.start)
        _, colour = _KINDS[span.action.kind]
        ax.broken_barh([(start, length)], (span.rank - 0.4, 0.8), facecolor=colour, edgecolor="white")
        if numbered:
            middle = start + length / 2
            ax.text(middle, span.rank, span.action.microbatch, ha="center", va="center", fontsize=8)
    ax.set_yticks(range(timeline.ranks), [f"rank {rank}" for rank in range(timeline.ranks)])
    ax.set_xlim(0, width)
    style.top_down(ax)
    fig.legend(handles=_legend(timeline), loc="outside lower center", ncols=4)
    return fig


def _legend(timeline: Timeline) -> list[Patch]:
    there = {span.action.kind for span in timeline.spans}
    done = [Patch(color=colour, label=name) for kind, (name, colour) in _KINDS.items() if kind in there]
    return [*done, Patch(label="waits", **_WAITS)]


def ring_frames(ranks: int) -> list[np.ndarray]:
    """How many ranks' numbers are added up in each piece, on each rank [rank, piece]: at first, and after
    each message of an all-reduce around a ring."""
    counts = np.ones((ranks, ranks))
    frames = [counts]
    for message in range(2 * (ranks - 1)):
        counts = counts.copy()
        for rank in range(ranks):
            piece = (rank - message - 2) % ranks
            left = frames[-1][rank - 1, piece]
            mine = frames[-1][rank, piece]
            grows = message < ranks - 1
            counts[rank, piece] = left + mine if grows else left
        frames.append(counts)
    return frames


def draw_ring(counts: np.ndarray, title: str) -> Figure:
    """A square a rank (down) and piece (across): how many ranks' numbers are added up in it."""
    ranks, pieces = counts.shape
    fig, ax = style.axes("piece", "", title, size=(5.4, 3.2))
    ax.imshow(counts, cmap="Blues", vmin=-1, vmax=1.6 * ranks, aspect="auto")
    for rank, piece in np.ndindex(ranks, pieces):
        whole = counts[rank, piece] == ranks
        weight = "bold" if whole else "normal"
        ax.text(piece, rank, int(counts[rank, piece]), ha="center", va="center", weight=weight)
    ax.set_xticks(range(pieces))
    ax.set_yticks(range(ranks), [f"rank {rank}" for rank in range(ranks)])
    ax.set_xticks(np.arange(0.5, pieces - 1), minor=True)
    ax.set_yticks(np.arange(0.5, ranks - 1), minor=True)
    ax.grid(visible=False)
    ax.grid(which="minor", color="white", lw=2)
    ax.tick_params(which="both", length=0)
    return fig
