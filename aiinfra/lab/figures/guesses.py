"""Guessing ahead, drawn: what a number of guesses gains, and which drafts are worth having. Page 16."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from aiinfra.lab import style

_LEVELS = (1.0001, 1.25, 1.5, 2, 3, 5, 20)
_PRICES = (0.01, 0.03, 0.1, 0.3, 1)
_DEEPSEEK = (0.04, 0.875)             # price and acceptance rate; see the page for the source


def draw_bet(free: Sequence[float], paid: Sequence[float], a: float, c: float) -> Figure:
    """Speed-up against 0, 1, 2, … guesses: `free` if checking costs nothing, `paid` as it was measured."""
    most = max(paid)
    best = list(paid).index(most)
    title = "here: do not guess at all"
    if best:
        title = f"best with {best}: {most:.2f} times as fast here"
    fig, ax = style.axes("guesses k", "times as fast", f"a = {a:.2f}, c = {c:.2f}. {title}")
    last = len(paid) - 1
    ax.axhspan(0, 1, color=style.WASTE, alpha=0.1, lw=0)
    dark = style.readable(style.WASTE)
    ax.text(last + 0.2, 0.05, "slower", color=dark, ha="right")
    ax.plot(free, "o--", ms=4, color=style.BOUND, label="the check is free")
    ax.plot(paid, "o-", ms=5, color=style.MEASURED, label="the check as measured")
    top = 1.1 * max(free)
    ax.set_ylim(0, max(3, top))
    ax.set_xlim(-0.3, last + 0.3)
    ax.legend(loc="upper right")
    return fig


def draw_drafts(prices: Tensor, rates: Tensor, best: Tensor,
                drafts: Mapping[str, tuple[float, float]]) -> Figure:
    """A map of the best speed-up [rates, prices], with each draft (rate, price) at its place."""
    title = "Best speed-up, checks free: which drafts are worth having?"
    fig, ax = style.axes("c, price of a guess (log scale)", "a, how often it is right", title, size=(7, 4.2))
    ax.contourf(prices, rates, best, levels=_LEVELS, cmap="Blues", norm="log", alpha=0.8)
    for level in _LEVELS[1:-1]:
        reached = rates[best[:, 3] >= level]                   # at the left edge, where its name stands
        if len(reached):
            ax.text(0.0055, reached[0] + 0.012, f"{level:g} ×", fontsize=9)
    beside = dict(textcoords="offset points", fontsize=9)
    for name, (rate, price) in drafts.items():
        ax.plot(price, rate, "o", color=style.MEASURED, mec="white", ms=9)
        ax.annotate(name, (price, rate), (-8, 4), ha="right", **beside)
    ax.plot(*_DEEPSEEK, "D", color=style.BOUND, mec="white", ms=9)
    ax.annotate("DeepSeek-V3's layer\n(one guess: 1.8 ×)", _DEEPSEEK, (8, -8), **beside)
    ax.set(xscale="log", xlim=(0.005, 1.25), xticks=_PRICES, xticklabels=_PRICES)
    ax.minorticks_off()
    ax.grid(False)
    ax.text(1.2, 0.34, "white: it cannot win", ha="right", color=style.TEXT, fontsize=9)
    return fig
