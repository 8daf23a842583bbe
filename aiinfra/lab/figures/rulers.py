"""Rounding, drawn: weights on the marks of their rulers, and what it does to the answers. Page 16."""

from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor

from aiinfra.lab import style

_SHOWN = 96                           # weights


def draw_rulers(before: Tensor, after: Tensor, group: int, bits: int, title: str) -> Figure:
    """The first weights of a matrix as dots, the marks of each group's ruler, and the way to the nearest."""
    values, rounded = before.flatten(), after.flatten()[:_SHOWN]
    fig, ax = style.axes("weight, in the order of the row", "value", title, size=(7, 3.8))
    width = 0.5 if bits > 5 else 0.8
    for start in range(0, _SHOWN, min(group, _SHOWN)):
        first = start // group * group
        members = values[first:first + group]
        low = members.min()
        high = members.max()
        marks = torch.linspace(low, high, 2**bits)
        left = start - 0.5
        right = min(start + group, _SHOWN) - 0.5
        ax.hlines(marks, left, right, color=style.LIGHT, lw=width)
        ax.axvline(left, color=style.LIGHT, lw=1)
    shown = values[:_SHOWN]
    ax.vlines(range(_SHOWN), shown, rounded, color=style.WASTE, lw=2)
    ax.plot(shown, ".", color=style.MEASURED, ms=6)
    largest = shown.abs().max().item()
    reach = 1.25 * largest
    ax.set_xlim(-1, _SHOWN)
    ax.set_ylim(-reach, reach)
    ax.grid(False)
    return fig


def draw_answers(same: Mapping[int, float], change: Mapping[int, Tensor]) -> Figure:
    """By bits: the share of places with the same first choice [%], and the change of perplexity [%] with two
    standard errors. `change`: how much more each token surprises, in nats."""
    title = "What rounding does to the answers"
    fig, (left, right) = style.axes("bits (+ 1 for rulers)", "", title, columns=2)
    left.plot(*zip(*same.items()), "o-", color=style.MEASURED)
    left.axhline(100, color=style.BOUND, ls="--", lw=1)
    left.set(ylabel="same first choice [%]", ylim=(0, 105))
    nats = torch.stack(list(change.values()))                  # [bits, T]
    middle = nats.mean(1)
    spread = 2 * nats.std(1) / nats.shape[1] ** 0.5
    ratio = middle.exp()                                       # of logarithms: exp() makes it a ratio
    low = (middle - spread).exp()
    high = (middle + spread).exp()
    bars = torch.stack([ratio - low, high - ratio])
    percent = 100 * (ratio - 1)
    right.errorbar(list(change), percent, 100 * bars, fmt="o-", color=style.MEASURED, capsize=4)
    right.axhline(0, color=style.BOUND, ls="--", lw=1)
    right.set(ylabel="perplexity, change [%]")
    return fig
