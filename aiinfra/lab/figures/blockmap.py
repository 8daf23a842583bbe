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
from aiinfra.lab import style

_KEY = "full: used · hatched: shared · pale, in brackets: cached, owned by nobody · white: free"
_EDGE = {"edgecolor": style.LIGHT, "linewidth": 0.7}
_LONGEST = 3                              # letters of owners' names that fit into a cell


@dataclass(frozen=True)
class Cell:
    """One block in one frame: who holds it, how many tokens it has, and whose it was last."""

    owners: tuple[str, ...] = ()
    filled: int = 0
    cached: bool = False
    last: str = ""

    @property
    def free(self) -> bool:
        """True if nobody holds it and its content is not kept."""
        return not self.owners and not self.cached

    @property
    def label(self) -> str:
        """Its owners' names or, if they are too long, how many there are; in brackets whose it was."""
        names = "+".join(self.owners) or f"({self.last})"
        if len(names) > _LONGEST:
            return f"×{len(self.owners)}"
        return names


class BlockMap:
    """Frames of one pool. `record` after each step, then `draw` one or `strip` several."""

    def __init__(self, pool: BlockPool, columns: int = 12) -> None:
        self.pool, self.columns = pool, columns
        self.frames: list[tuple[Cell, ...]] = []
        self.notes: list[str] = []
        self._names: list[str] = []

    def record(self, requests: Iterable[Request], note: str = "") -> None:
        """Add a frame. `requests` are those that hold blocks now; `note` is shown over it."""
        owners: list[list[str]] = [[] for _ in range(self.pool.total)]
        filled = [0] * self.pool.total
        for request in requests:
            if request.id not in self._names:
                self._names.append(request.id)
            for i, block in enumerate(request.blocks):
                owners[block].append(request.id)
                filled[block] = max(filled[block], self._tokens(request, i))
        self.frames.append(tuple(self._cell(i, owners[i], filled[i]) for i in range(self.pool.total)))
        self.notes.append(note)

    def _tokens(self, request: Request, i: int) -> int:
        """How many of a request's tokens lie in its block number i."""
        left = request.computed - i * self.pool.block_size
        return max(0, min(self.pool.block_size, left))

    def _cell(self, block: int, owners: list[str], filled: int) -> Cell:
        last = self.frames[-1][block].last if self.frames else ""
        if owners:
            last = owners[0]
        return Cell(owners=tuple(owners), filled=filled, cached=self.pool.keeps(block), last=last)

    @property
    def _rows(self) -> int:
        return -(-self.pool.total // self.columns)

    def draw(self, frame: int, title: str = "") -> Figure:
        """One frame, large, with the key."""
        size = (7.0, 0.9 + 0.46 * self._rows)
        fig, ax = plt.subplots(figsize=size, layout="constrained")
        self._paint(ax, frame, letters=9)
        ax.set_title(title or self._title(f"step {frame}", frame))
        ax.text(0, self._rows + 0.12, _KEY, va="top", fontsize=8, color=style.TEXT)
        ax.set_ylim(self._rows + 0.5, -0.1)
        plt.close(fig)                    # shown once, as the cell's result
        return fig

    def strip(self, frames: Sequence[int], title: str = "", across: int = 2) -> Figure:
        """Several frames side by side, `across` in a row: what the slider shows, on paper."""
        down = -(-len(frames) // across)
        panel = 0.3 + self._rows * 6.6 / across / self.columns
        size = (7.0, 0.75 + down * panel)
        fig, axes = plt.subplots(down, across, figsize=size, layout="constrained", squeeze=False)
        for ax in axes.flat:
            ax.set_axis_off()
        for ax, frame in zip(axes.flat, frames):
            self._paint(ax, frame, letters=8)
            ax.set_title(self._title(str(frame), frame), fontsize=8, fontweight="normal", pad=3)
        fig.suptitle(title, **style.TITLE)
        fig.supxlabel(_KEY, fontsize=8, color=style.TEXT)
        plt.close(fig)
        return fig

    def _title(self, name: str, frame: int) -> str:
        note = self.notes[frame]
        return f"{name}: {note}" if note else name

    def _paint(self, ax: Axes, frame: int, letters: float) -> None:
        ax.set(xlim=(-0.05, self.columns + 0.05), ylim=(self._rows + 0.05, -0.05), aspect="equal")
        ax.set_axis_off()
        for i, cell in enumerate(self.frames[frame]):
            y, x = divmod(i, self.columns)
            self._paint_cell(ax, x, y, cell, letters)

    def _paint_cell(self, ax: Axes, x: int, y: int, cell: Cell, letters: float) -> None:
        ax.add_patch(Rectangle((x, y), 1, 1, facecolor="white", **_EDGE))
        if cell.free:
            return
        colour = self._colour(cell.last)
        ax.add_patch(Rectangle((x, y), 1, 1, facecolor=colour, alpha=0.22, **_EDGE))
        if cell.owners:
            share = cell.filled / self.pool.block_size
            hatch = {"hatch": "////", "edgecolor": "white"} if len(cell.owners) > 1 else {}
            ax.add_patch(Rectangle((x, y), share, 1, facecolor=colour, linewidth=0, **hatch))
        halo = withStroke(linewidth=letters / 3, foreground="white")
        ax.text(x + 0.5, y + 0.5, cell.label, ha="center", va="center", fontsize=letters, color="#222222",
                path_effects=[halo])

    def _colour(self, name: str) -> str:
        place = self._names.index(name)
        return style.TENANTS[place % len(style.TENANTS)]
