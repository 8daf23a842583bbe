"""Who looks at whom: attention weights as squares, a row for a token that looks, a column for one looked at.

           The cat sat
    The     ■               a row adds up to 1
    cat     ▒   ■           above the diagonal nothing: that would be the future
    sat     ░   ▒   ■

Weights arrive ready; nothing is computed here. Notebook 03.
"""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor

from aiinfra.lab import style

_SHADES = LinearSegmentedColormap.from_list("weights", ["white", style.MEASURED])
_PANEL = 3.1                              # inches, without the labels of rows
_LONGEST = 12                             # letters of a token


def attention_maps(maps: Mapping[str, Tensor], tokens: Sequence[str], title: str = "") -> Figure:
    """One square for each of `maps`: its title -> weights [T, T], row t being what token t looks at.

    Raises ValueError unless every map has a row and a column for each of the tokens.
    """
    for name, weights in maps.items():
        if weights.shape != (len(tokens), len(tokens)):
            raise ValueError(f"{name!r} is {list(weights.shape)}; there are {len(tokens)} tokens.")
    size = (_PANEL * len(maps) + 0.9, _PANEL + 1.1)
    fig, axes = style.plt.subplots(1, len(maps), figsize=size, layout="constrained", squeeze=False)
    for ax, (name, weights) in zip(axes[0], maps.items()):
        _square(ax, name, weights, tokens)
    axes[0][0].set_yticks(range(len(tokens)), [_short(token) for token in tokens], fontsize=7.5)
    axes[0][0].set_ylabel("token that looks")
    fig.suptitle(title, **style.TITLE)
    style.plt.close(fig)                  # shown once, as the cell's result
    return fig


def _square(ax: Axes, name: str, weights: Tensor, tokens: Sequence[str]) -> None:
    ax.imshow(weights.float().cpu(), cmap=_SHADES, vmin=0, vmax=1)
    ax.set_title(name, fontsize=9.5, loc="left")
    ax.set_xticks(range(len(tokens)), [_short(token) for token in tokens], fontsize=7.5, rotation=90)
    ax.set_yticks([])
    ax.set_xlabel("token looked at")
    ax.grid(False)


def _short(token: str) -> str:
    """The token without spaces around it; a space alone is shown as ␣."""
    text = token.strip() or "␣"
    if len(text) > _LONGEST:
        text = text[:_LONGEST - 1] + "…"
    return text.replace("$", r"\$")
