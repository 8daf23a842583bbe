"""The block map: one cell a block, coloured by its owner, frame by frame.

    ┌───┬───┬───┬───┬───┐    full    owned by one request; a cell is coloured as far as it is filled
    │ a │a b│ b │   │(c)│    hatched owned by several
    └───┴───┴───┴───┴───┘    pale    cached: owned by nobody, content kept       white   free

A frame is taken from a BlockPool and the requests that run on it, between two steps. Nothing is
inferred: who owns a block stands in the requests' block tables. Notebook 13.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from aiinfra.engine.blocks import BlockPool
from aiinfra.engine.request import Request

_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6BB1", "#999933")
_KEY = "full: used · hatched: shared · pale, in brackets: cached, owned by nobody · white: free"


@dataclass(frozen=True)
class Block:
    """One block in one frame: who holds it, how many tokens it has, and whose it was last."""

    owners: tuple[str, ...]
    filled: int
    cached: bool
    last: str


class BlockMap:
    """Frames of one pool. `record` after each step, then `draw` one or `strip` several."""

    def __init__(self, pool: BlockPool, columns: int = 12) -> None:
        self.pool, self.columns = pool, columns
        self.frames: list[tuple[Block, ...]] = []
        self.notes: list[str] = []
        self._names: list[str] = []

    def record(self, requests: Iterable[Request], note: str = "") -> None:
        """Add a frame. `requests` are those that hold blocks now; `note` is shown over it."""
        owners: list[list[str]] = [[] for _ in range(self.pool.total)]
        filled = [0] * self.pool.total
        for request in requests:
            self._names += [request.id] * (request.id not in self._names)
            for i, block in enumerate(request.blocks):
                owners[block].append(request.id)
                tokens = min(self.pool.block_size, request.computed - i * self.pool.block_size)
                filled[block] = max(filled[block], tokens, 0)
        before = self.frames[-1] if self.frames else [Block((), 0, False, "")] * self.pool.total
        self.frames.append(tuple(
            Block(tuple(who), filled[i], self.pool.keeps(i), who[0] if who else before[i].last)
            for i, who in enumerate(owners)))
        self.notes.append(note)

    def draw(self, frame: int, title: str = "") -> Figure:
        """One frame, large, with the key."""
        rows = -(-self.pool.total // self.columns)
        fig, ax = plt.subplots(figsize=(7.0, 0.9 + 0.46 * rows), layout="constrained")
        self._paint(ax, frame, size=9)
        ax.set_title(title or ": ".join(filter(None, (f"step {frame}", self.notes[frame]))))
        ax.text(0, rows + 0.12, _KEY, va="top", fontsize=8, color="#555555")
        ax.set_ylim(rows + 0.5, -0.1)
        plt.close(fig)                    # shown once, as the cell's result
        return fig

    def strip(self, frames: Sequence[int], title: str = "", across: int = 3) -> Figure:
        """Several frames side by side, `across` in a row: what the slider shows, on paper."""
        down, rows = -(-len(frames) // across), -(-self.pool.total // self.columns)
        fig, axes = plt.subplots(down, across, figsize=(7.0, 0.75 + down * (0.3 + rows * 6.6 / across / self.columns)),
                                 layout="constrained", squeeze=False)
        for ax in axes.flat:
            ax.set_axis_off()
        for ax, frame in zip(axes.flat, frames):
            self._paint(ax, frame, size=5.5)
            ax.set_title(": ".join(filter(None, (str(frame), self.notes[frame]))), fontsize=8, fontweight="normal", pad=3)
        fig.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        fig.supxlabel(_KEY, fontsize=8, color="#555555")
        plt.close(fig)
        return fig

    def _paint(self, ax: Axes, frame: int, size: float) -> None:
        rows = -(-self.pool.total // self.columns)
        ax.set(xlim=(-0.05, self.columns + 0.05), ylim=(rows + 0.05, -0.05), aspect="equal")
        ax.set_axis_off()
        for i, block in enumerate(self.frames[frame]):
            y, x = divmod(i, self.columns)
            self._cell(ax, x, y, block, size)

    def _cell(self, ax: Axes, x: int, y: int, block: Block, size: float) -> None:
        edge = {"edgecolor": "#BBBBBB", "linewidth": 0.7}
        ax.add_patch(Rectangle((x, y), 1, 1, facecolor="white", **edge))
        if not block.owners and not block.cached:
            return
        colour, name = self._colour(block.last), "+".join(block.owners) or f"({block.last})"
        ax.add_patch(Rectangle((x, y), 1, 1, facecolor=colour, alpha=0.22, **edge))
        if block.owners:
            share = block.filled / self.pool.block_size
            hatch = {"hatch": "////", "edgecolor": "white"} if len(block.owners) > 1 else {}
            ax.add_patch(Rectangle((x, y), share, 1, facecolor=colour, linewidth=0, **hatch))
        name = name if len(name) <= 3 else f"×{len(block.owners)}"
        ax.text(x + 0.5, y + 0.5, name, ha="center", va="center", fontsize=size, color="#222222",
                path_effects=[withStroke(linewidth=size / 3, foreground="white")])

    def _colour(self, name: str) -> str:
        return _COLOURS[self._names.index(name) % len(_COLOURS)]
