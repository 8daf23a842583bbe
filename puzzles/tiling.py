"""The tiling of a puzzle, in a few words; drawing.py draws it.

    panel("x", 1, 4, own=[(0, 1)], ragged="c")

is a row of four tiles of which one program owns the second, and the last is cut off by a mask.
`sweep` are the tiles that the same program reads in a loop, in this order. Every puzzle shows what
*one* program touches, because that is how a kernel is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass

Tile = tuple[int, int]                   # row, column


@dataclass(frozen=True)
class Panel:
    """One tensor as rows x columns of tiles."""

    name: str
    rows: int
    columns: int
    own: tuple[Tile, ...] = ()
    sweep: tuple[Tile, ...] = ()
    ragged_rows: bool = False            # the last row of tiles is cut off by the mask
    ragged_columns: bool = False
    label_rows: str = ""
    label_columns: str = ""

    @property
    def width(self) -> float:
        """Tiles across, counting what its title needs."""
        return max(self.columns, 0.21 * len(self.name), 0.185 * len(self.label_columns))

    @property
    def words(self) -> str:
        """The panel for who cannot see it; rows and columns are counted from 1."""
        parts = [f"{self.name} in {self.rows} × {self.columns} tiles"]
        if self.own:
            parts.append(f"one program writes or keeps {_listed(self.own)}")
        if self.sweep:
            parts.append(f"it reads {_listed(self.sweep)}")
        if self.ragged_rows:
            parts.append("the mask cuts the last row")
        if self.ragged_columns:
            parts.append("the mask cuts the last column")
        return ", ".join(parts)

    def is_cut_right(self, tile: Tile) -> bool:
        """Whether the mask cuts off the right part of a tile."""
        return self.ragged_columns and tile[1] == self.columns - 1

    def is_cut_below(self, tile: Tile) -> bool:
        """Whether the mask cuts off the lower part of a tile."""
        return self.ragged_rows and tile[0] == self.rows - 1


def _listed(tiles: Sequence[Tile]) -> str:
    return " ".join(f"({row + 1}, {column + 1})" for row, column in tiles)


def panel(name: str, rows: int, columns: int, own: Sequence[Tile] = (), sweep: Sequence[Tile] = (),
          ragged: str = "", labels: tuple[str, str] = ("", "")) -> Panel:
    """Shorthand: `ragged` holds "r" and/or "c" where the last row or column of tiles is masked."""
    label_rows, label_columns = labels
    return Panel(
        name=name,
        rows=rows,
        columns=columns,
        own=tuple(own),
        sweep=tuple(sweep),
        ragged_rows="r" in ragged,
        ragged_columns="c" in ragged,
        label_rows=label_rows,
        label_columns=label_columns,
    )
