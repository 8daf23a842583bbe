"""Who sat where, and when: seats down, steps across, drawn from what a scheduler or an engine recorded.

    seat 1 │ A A A │ E E E E E E │ ░ ░ ░        one row a seat, one column a step
    seat 2 │ B B B B B B B │ F F │ ░ ░ ░        ░ empty although somebody waits · blank: empty, and nobody waits

What goes in is the least that every scheduler can tell: for each step, the ids that ran in it. A request
takes the lowest seat that is free when it comes and keeps it until it leaves; the engine itself knows no
seats, only a list. Invariant: in each step every id that ran has exactly one seat. Notebook 12.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from aiinfra.lab import style

Steps = Sequence[Sequence[str]]
_TINTS = ("#9CC4E4", "#C6DDEF", "#B1CFE8", "#D9E8F4")        # neighbours differ; which is which says the letter
_FIRST = "#5B9BCB"                                           # the step that ran the prompt
_WASTED, _SPARE = dict(facecolor="#FBE3D6", edgecolor=style.BAD, hatch="////"), dict(facecolor="#F4F4F4", edgecolor="none")


def ran(records: Sequence) -> list[list[str]]:
    """The ids that ran in each step, from an engine's StepRecords."""
    return [[request_id for request_id, _, _ in record.ran] for record in records]


def seating(steps: Steps, seats: int) -> list[list[str | None]]:
    """For each step, who has which of the `seats` seats; None for nobody.

    Raises ValueError for a step in which more ran than there are seats.
    """
    plan: list[list[str | None]] = []
    for at, ids in enumerate(steps):
        if len(ids) > seats:
            raise ValueError(f"{len(ids)} requests ran in step {at}, and there are {seats} seats: give more seats.")
        row = [i if i in ids else None for i in plan[-1]] if plan else [None] * seats
        for new in (i for i in ids if i not in row):
            row[row.index(None)] = new
        plan.append(row)
    return plan


def waiting(steps: Steps, arrivals: Mapping[str, int]) -> list[int]:
    """For each step, how many requests had arrived and had never run yet. `arrivals`: id -> step."""
    first: dict[str, int] = {}
    for at, ids in enumerate(steps):
        for i in ids:
            first.setdefault(i, at)
    return [sum(arrived <= at < first.get(i, len(steps)) for i, arrived in arrivals.items()) for at in range(len(steps))]


def draw(ax: Axes, steps: Steps, seats: int, arrivals: Mapping[str, int], title: str = "") -> None:
    """The timeline of `steps` on `ax`. Hatched: seats that somebody who was waiting could have had."""
    plan, queue = seating(steps, seats), waiting(steps, arrivals)
    names = {name: k for k, name in enumerate(arrivals)}
    for at, row in enumerate(plan):                              # empty seats first, lowest ones to those who wait
        empty = [seat for seat in range(seats) if row[seat] is None]
        for rank, seat in enumerate(empty):
            ax.broken_barh([(at, 1)], (seat - 0.42, 0.84), linewidth=0, **(_WASTED if rank < queue[at] else _SPARE))
    for seat, start, end, name in _stays(plan):
        ax.broken_barh([(start, end - start)], (seat - 0.42, 0.84), facecolor=_TINTS[names[name] % 4], edgecolor="white")
        if start == 0 or name not in plan[start - 1]:
            ax.broken_barh([(start, 1)], (seat - 0.42, 0.84), facecolor=_FIRST, edgecolor="white")
        ax.text((start + end) / 2, seat, name, ha="center", va="center", fontsize=9)
    ax.set(ylim=(seats - 0.4, -0.6), yticks=range(seats), yticklabels=range(1, seats + 1), ylabel="seat")
    ax.set_title(title, fontsize=10)
    ax.grid(axis="y", visible=False)


def _stays(plan: Sequence[Sequence[str | None]]) -> list[tuple[int, int, int, str]]:
    """(seat, first step, step after the last, id) of every stay."""
    stays = []
    for seat in range(len(plan[0]) if plan else 0):
        start = 0
        for at in range(1, len(plan) + 1):
            if at == len(plan) or plan[at][seat] != plan[start][seat]:
                if plan[start][seat] is not None:
                    stays.append((seat, start, at, plan[start][seat]))
                start = at
    return stays


def stack(runs: Mapping[str, tuple[Steps, int]], arrivals: Mapping[str, int], title: str = "") -> Figure:
    """One timeline under another, all on one axis of steps. `runs`: title -> (steps, seats)."""
    heights = [seats + 0.6 for _, seats in runs.values()]
    fig, axes = style.plt.subplots(len(runs), 1, figsize=(7.6, 0.8 + 0.31 * sum(heights) + 0.3 * len(runs)), sharex=True,
                                   layout="constrained", squeeze=False, gridspec_kw={"height_ratios": heights})
    for ax, (name, (steps, seats)) in zip(axes[:, 0], runs.items()):
        draw(ax, steps, seats, arrivals, name)
    axes[-1, 0].set(xlabel="step", xlim=(0, max(len(steps) for steps, _ in runs.values())))
    fig.legend(handles=[Patch(color=_FIRST, label="prompt and first token"), Patch(color=_TINTS[0], label="one token a step"),
                        Patch(**_WASTED, linewidth=0, label="empty, and somebody waits"), Patch(**_SPARE, label="empty, nobody waits")],
               loc="outside lower center", ncols=4, fontsize=8.5)
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    style.plt.close(fig)
    return fig


@dataclass(frozen=True)
class Progress:
    """One request at one moment: tokens made, of how many, its state, and the text so far."""

    name: str
    made: int
    of: int
    state: str                     # "to come", "waiting", "running" or "done"
    text: str


_STATES = {"to come": "#BBBBBB", "waiting": style.BAD, "running": style.MEASURED, "done": style.GOOD}
_LETTERS = 68                                                # of text beside a bar; the end is what has just been made


def board(rows: Sequence[Progress], title: str = "") -> Figure:
    """A row a request: a bar of tokens made out of those wanted, its state, and the end of its text."""
    most = max(row.of for row in rows)
    fig, ax = style.axes("", "", title, size=(8.2, 0.9 + 0.27 * len(rows)))
    for y, row in enumerate(rows):
        ax.barh(y, row.of, color="#EEEEEE", height=0.66)
        ax.barh(y, row.made, color=_STATES[row.state], height=0.66)
        ax.text(most * 1.05, y, row.state, va="center", fontsize=9, color=_STATES[row.state])
        text = " ".join(row.text.replace("$", r"\$").split())
        ax.text(most * 1.4, y, text if len(text) <= _LETTERS else "…" + text[1 - _LETTERS:], va="center", fontsize=8.5)
    ax.set(yticks=range(len(rows)), yticklabels=[row.name for row in rows], ylim=(len(rows) - 0.4, -0.6), xlim=(0, most * 4))
    ax.set_xticks(range(0, most + 1, 8))
    ax.spines["bottom"].set_bounds(0, most)
    ax.set_xlabel("tokens made, of those wanted", x=0, ha="left")
    ax.grid(visible=False)
    return fig
