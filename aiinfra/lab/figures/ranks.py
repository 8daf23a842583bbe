"""Ranks at work: a pipeline's turns on one clock, and how sums grow around a ring.

    rank 0 │ F0 F1 F2 F3 ░░░░░░░░░░░ B0 B1 …      ░ a device that waits: the bubble
    rank 1 │ ░░ F0 F1 F2 F3 ░░░░░ B0 B1 …

What goes in are the turns that ranks have written down themselves (parallel/by_hand.py), with the machine's
clock, which its processes share. Notebook 06.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from aiinfra.lab import style
from aiinfra.parallel.by_hand import Turn

_TINTS = {"F": "#9CC4E4", "B": "#5B9BCB"}
_WAITS = {"facecolor": style.PALE_WASTE, "edgecolor": style.WASTE, "hatch": "////", "linewidth": 0}
_MOST_NUMBERED = 50               # turns of a rank whose micro-batch is still readable

Rows = Sequence[Sequence[Turn]]


def bubble(ranks: Rows) -> float:
    """The share of all ranks' time, from the first turn of all to the last, in which a rank had none."""
    begin, end = _window(ranks)
    busy = sum(turn.end - turn.begin for turns in ranks for turn in turns)
    return 1 - busy / (len(ranks) * (end - begin))


def draw_turns(ranks: Rows, title: str) -> Figure:
    """A row a rank, a bar a turn with its micro-batch's number; hatched where a rank waits."""
    begin, end = _window(ranks)
    width = 1e3 * (end - begin)
    fig, ax = style.axes("time [ms]", "", title, size=(8.5, 0.9 + 0.45 * len(ranks)))
    for row, turns in enumerate(ranks):
        ax.broken_barh([(0, width)], (row - 0.4, 0.8), **_WAITS)
        for turn in turns:
            start = 1e3 * (turn.begin - begin)
            length = 1e3 * (turn.end - turn.begin)
            colour = _TINTS[turn.work]
            ax.broken_barh([(start, length)], (row - 0.4, 0.8), facecolor=colour, edgecolor="white")
            if len(turns) <= _MOST_NUMBERED:
                middle = start + length / 2
                ax.text(middle, row, turn.micro_batch, ha="center", va="center", fontsize=8)
    ax.set_yticks(range(len(ranks)), [f"rank {row}" for row in range(len(ranks))])
    ax.set_xlim(0, width)
    style.top_down(ax)
    legend = [Patch(color=_TINTS["F"], label="forward"), Patch(color=_TINTS["B"], label="backward"),
              Patch(label="waits", **_WAITS)]
    fig.legend(handles=legend, loc="outside lower center", ncols=3)
    return fig


def _window(ranks: Rows) -> tuple[float, float]:
    turns = [turn for row in ranks for turn in row]
    return min(turn.begin for turn in turns), max(turn.end for turn in turns)


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
            counts[rank, piece] = left + mine * grows
        frames.append(counts)
    return frames


def draw_ring(counts: np.ndarray, title: str) -> Figure:
    """A square a rank (down) and piece (across): how many ranks' numbers are added up in it."""
    ranks, pieces = counts.shape
    fig, ax = style.axes("piece", "", title, size=(4.6, 3.4))
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
