"""A profile on one figure: the step from left to right with its gaps, and who took the time.

    ████████ forward ██████▒▒▒▒▒▒▒▒▒▒▒ backward ▒▒▒▒▒▒▒▒▒▒██ the rest ░ idle
    aten::mm        ████████▒▒▒▒▒▒▒▒▒▒▒▒        layers.mlp        █████▒▒▒▒▒▒▒
    aten::mul       ██▒▒▒                       layers.attention  ████▒▒▒▒▒

Notebook 04.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from aiinfra.errors import plural
from aiinfra.lab import style
from aiinfra.lab.figures.lanes import merge
from aiinfra.perf.profile import Profile, TimeSpent

_FORWARD, _BACKWARD = style.MEASURED, style.EXTRA[1]
_IDLE = style.PALE_WASTE
_LETTERS = 26                    # of an operation's name that have room


def draw_profile(profile: Profile, title: str = "", most: int = 8) -> Figure:
    """The timeline, and the `most` longest operations and parts of the model; what is left is one bar."""
    operations = _longest(profile.by_operation(), most)
    parts = _longest(profile.by_part(), most)
    rows = max(len(operations), len(parts))
    fig = style.plt.figure(figsize=(8.4, 1.6 + 0.27 * rows), layout="constrained")
    grid = fig.add_gridspec(2, 2, height_ratios=(0.5, 0.27 * rows))
    _timeline(fig.add_subplot(grid[0, :]), profile)
    _bars(fig.add_subplot(grid[1, 0]), "by operation", operations, profile.seconds)
    _bars(fig.add_subplot(grid[1, 1]), "by part of the step", parts, profile.seconds)
    key = [Patch(color=_FORWARD, label="forward, and the rest"), Patch(color=_BACKWARD, label="backward"),
           Patch(color=_IDLE, label=f"idle: no operation runs ({100 * profile.idle_share:.0f} %)")]
    fig.legend(handles=key, loc="outside lower center", ncols=3)
    if title:
        fig.suptitle(title, **style.TITLE)
    style.plt.close(fig)                  # shown once, as the cell's result
    return fig


def _timeline(ax: Axes, profile: Profile) -> None:
    forward = merge((one.start, one.end) for one in profile.work if not one.backward)
    backward = merge((one.start, one.end) for one in profile.work if one.backward)
    for spans, colour in ((forward, _FORWARD), (backward, _BACKWARD), (profile.idle_spans, _IDLE)):
        bars = [(1e3 * start, 1e3 * (end - start)) for start, end in spans]
        ax.broken_barh(bars, (0, 1), color=colour, linewidth=0)
    ax.set(xlim=(0, 1e3 * profile.seconds), ylim=(0, 1), yticks=[], xlabel="time in the step [ms]")
    ax.grid(False)


def _longest(spent: Sequence[TimeSpent], most: int) -> list[TimeSpent]:
    """The first `most`, and the sum of the others."""
    rest = spent[most:]
    others = TimeSpent(
        name=plural(len(rest), "other"),
        forward_seconds=sum(one.forward_seconds for one in rest),
        backward_seconds=sum(one.backward_seconds for one in rest),
        calls=sum(one.calls for one in rest))
    return [*spent[:most], others] if rest else list(spent)


def _bars(ax: Axes, title: str, spent: Sequence[TimeSpent], whole: float) -> None:
    names = [_short(one.name) for one in spent]
    forward = [1e3 * one.forward_seconds for one in spent]
    backward = [1e3 * one.backward_seconds for one in spent]
    rows = range(len(spent))
    ax.barh(rows, forward, color=_FORWARD, height=0.7)
    ax.barh(rows, backward, left=forward, color=_BACKWARD, height=0.7)
    for row, one in enumerate(spent):
        share = f" {100 * one.seconds / whole:.0f} %"
        ax.text(1e3 * one.seconds, row, share, va="center", fontsize=8, color=style.TEXT)
    ax.set_yticks(rows, names, fontsize=8)
    ax.set_xlabel("time [ms]")
    ax.margins(x=0.12)
    ax.set_title(title, fontsize=10)
    style.top_down(ax)


def _short(name: str) -> str:
    """A name without its namespace, and without its middle where it is too long."""
    plain = name.removeprefix("aten::").lstrip("_")          # `exp_` writes into its input, `exp` does not
    if len(plain) <= _LETTERS:
        return plain
    half = _LETTERS // 2
    return f"{plain[:half]}…{plain[-half:]}"
