"""Who sat where, and when: seats down, steps across, drawn from what a scheduler or an engine recorded.

    seat 1 │ A A A │ E E E E E E │ ░ ░ ░     one row a seat, one column a step
    seat 2 │ B B B B B B B │ F F │ ░ ░ ░     ░ empty although somebody waits · blank: empty, and nobody waits

What goes in is the least that every scheduler can tell: for each step, the ids that ran in it. A request
takes the lowest seat that is free when it comes and keeps it until it leaves; the engine itself knows no
seats, only a list. Invariant: in each step every id that ran has exactly one seat. Notebook 12.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from aiinfra.lab import style

Steps = Sequence[Sequence[str]]
_TINTS = ("#9CC4E4", "#C6DDEF", "#B1CFE8", "#D9E8F4")     # neighbours differ; which is which says the letter
_FIRST = "#5B9BCB"                                           # the step that ran the prompt
_WASTED = {"facecolor": style.PALE_WASTE, "edgecolor": style.WASTE, "hatch": "////", "linewidth": 0}
_SPARE = {"facecolor": "#F4F4F4", "edgecolor": "none", "linewidth": 0}


def ran(records: Sequence) -> list[list[str]]:
    """The ids that ran in each step, from an engine's StepRecords."""
    return [[request_id for request_id, _, _ in record.ran] for record in records]


def seating(steps: Steps, seats: int) -> list[list[str | None]]:
    """For each step, who has which of the `seats` seats; None for nobody.

    Raises ValueError for a step in which more ran than there are seats.
    """
    plan: list[list[str | None]] = []
    row: list[str | None] = [None] * seats
    for at, ids in enumerate(steps):
        if len(ids) > seats:
            raise ValueError(f"{len(ids)} requests ran in step {at}, and there are {seats} seats: "
                             "give more seats.")
        row = [name if name in ids else None for name in row]
        newcomers = [name for name in ids if name not in row]
        for name in newcomers:
            row[row.index(None)] = name
        plan.append(row)
    return plan


def waiting(steps: Steps, arrivals: Mapping[str, int]) -> list[int]:
    """For each step, how many requests had arrived and had never run yet. `arrivals`: id -> step."""
    first: dict[str, int] = {}
    for at, ids in enumerate(steps):
        for name in ids:
            first.setdefault(name, at)
    queue = [0] * len(steps)
    for name, arrived in arrivals.items():
        for at in range(arrived, first.get(name, len(steps))):
            queue[at] += 1
    return queue


def draw(ax: Axes, steps: Steps, seats: int, arrivals: Mapping[str, int], title: str = "") -> None:
    """The timeline of `steps` on `ax`. Hatched: seats that somebody who was waiting could have had."""
    plan = seating(steps, seats)
    queue = waiting(steps, arrivals)
    for at, row in enumerate(plan):                     # empty seats first, lowest ones to those who wait
        empty = [seat for seat in range(seats) if row[seat] is None]
        for rank, seat in enumerate(empty):
            _bar(ax, seat, at, at + 1, **(_WASTED if rank < queue[at] else _SPARE))
    names = list(arrivals)
    for stay in _stays(plan):
        tint = _TINTS[names.index(stay.name) % len(_TINTS)]
        _bar(ax, stay.seat, stay.start, stay.end, facecolor=tint, edgecolor="white")
        if stay.start == 0 or stay.name not in plan[stay.start - 1]:
            _bar(ax, stay.seat, stay.start, stay.start + 1, facecolor=_FIRST, edgecolor="white")
        middle = (stay.start + stay.end) / 2
        ax.text(middle, stay.seat, stay.name, ha="center", va="center", fontsize=9)
    ax.set_yticks(range(seats), range(1, seats + 1))
    ax.set(ylim=(seats - 0.4, -0.6), ylabel="seat")
    ax.set_title(title, fontsize=10)
    ax.grid(axis="y", visible=False)


def _bar(ax: Axes, seat: int, start: int, end: int, **look) -> None:
    ax.broken_barh([(start, end - start)], (seat - 0.42, 0.84), **look)


class _Stay(NamedTuple):
    """Somebody in a seat, from step `start` to before `end`."""

    seat: int
    start: int
    end: int
    name: str


def _stays(plan: Sequence[Sequence[str | None]]) -> Iterator[_Stay]:
    """Every stay, seat by seat."""
    seats = len(plan[0]) if plan else 0
    for seat in range(seats):
        column = [row[seat] for row in plan]
        start = 0
        for at in range(1, len(column) + 1):
            if at < len(column) and column[at] == column[start]:
                continue
            if column[start] is not None:
                yield _Stay(seat=seat, start=start, end=at, name=column[start])
            start = at


def stack(runs: Mapping[str, tuple[Steps, int]], arrivals: Mapping[str, int], title: str = "") -> Figure:
    """One timeline under another, all on one axis of steps. `runs`: title -> (steps, seats)."""
    heights = [seats + 0.6 for _, seats in runs.values()]
    size = (7.6, 0.8 + 0.31 * sum(heights) + 0.3 * len(runs))
    ratios = {"height_ratios": heights}
    fig, axes = style.plt.subplots(
        len(runs), 1, figsize=size, sharex=True, layout="constrained", squeeze=False, gridspec_kw=ratios)
    for ax, (name, (steps, seats)) in zip(axes[:, 0], runs.items()):
        draw(ax, steps, seats, arrivals, name)
    longest = max(len(steps) for steps, _ in runs.values())
    axes[-1, 0].set(xlabel="step", xlim=(0, longest))
    fig.legend(handles=_legend(), loc="outside lower center", ncols=4, fontsize=8.5)
    if title:
        fig.suptitle(title, **style.TITLE)
    style.plt.close(fig)
    return fig


def _legend() -> list[Patch]:
    return [
        Patch(color=_FIRST, label="prompt and first token"),
        Patch(color=_TINTS[0], label="one token a step"),
        Patch(label="empty, and somebody waits", **_WASTED),
        Patch(label="empty, nobody waits", **_SPARE),
    ]


@dataclass(frozen=True)
class Progress:
    """One request at one moment: tokens made, of how many, its state, and the text so far."""

    name: str
    made: int
    of: int
    state: str                     # "to come", "waiting", "running" or "done"
    text: str


_STATES = {"to come": style.LIGHT, "waiting": style.WASTE, "running": style.MEASURED, "done": style.GOOD}
_LETTERS = 68                                   # of text beside a bar; the end is what has just been made


def board(rows: Sequence[Progress], title: str = "") -> Figure:
    """A row a request: a bar of tokens made out of those wanted, its state, and the end of its text."""
    most = max(row.of for row in rows)
    fig, ax = style.axes("", "", title, size=(8.2, 0.9 + 0.27 * len(rows)))
    for y, row in enumerate(rows):
        colour = _STATES[row.state]
        ax.barh(y, row.of, color=style.PALE, height=0.66)
        ax.barh(y, row.made, color=colour, height=0.66)
        ax.text(1.05 * most, y, row.state, va="center", fontsize=9, color=style.readable(colour))
        ax.text(1.4 * most, y, _end_of(row.text), va="center", fontsize=8.5)
    ax.set_yticks(range(len(rows)), [row.name for row in rows])
    ax.set(ylim=(len(rows) - 0.4, -0.6), xlim=(0, most * 4))
    ax.set_xticks(range(0, most + 1, 8))
    ax.spines["bottom"].set_bounds(0, most)
    ax.set_xlabel("tokens made, of those wanted", x=0, ha="left")
    ax.grid(visible=False)
    style.plt.close(fig)
    return fig


def _end_of(text: str) -> str:
    """The last letters of a text on one line. A lone dollar sign must not begin a formula."""
    line = " ".join(text.replace("$", r"\$").split())
    if len(line) <= _LETTERS:
        return line
    return "…" + line[1 - _LETTERS:]
