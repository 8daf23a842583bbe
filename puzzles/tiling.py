"""The picture of a puzzle's tiling, drawn from a few words as SVG.

    panel("x", 1, 4, own=[(0, 1)], ragged_columns=True)

is a row of four tiles of which one program (orange) owns the second, and the last is cut off by a
mask (hatched). Blue tiles are what the same program sweeps over in a loop, in the order of the
numbers. Every puzzle shows what *one* program touches, because that is how a kernel is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

_OWN, _SWEEP, _REST, _INK = "#E69F00", "#56B4E9", "#E8EAED", "#444444"
_TILE, _GAP, _TOP = 34, 46, 40


@dataclass(frozen=True)
class Panel:
    """One tensor as rows x columns of tiles. Tiles are (row, column)."""

    name: str
    rows: int
    columns: int
    own: tuple[tuple[int, int], ...] = ()
    sweep: tuple[tuple[int, int], ...] = ()
    ragged_rows: bool = False
    ragged_columns: bool = False
    label_rows: str = ""
    label_columns: str = ""


def panel(name: str, rows: int, columns: int, own: Sequence[tuple[int, int]] = (), sweep: Sequence[tuple[int, int]] = (),
          ragged: str = "", labels: tuple[str, str] = ("", "")) -> Panel:
    """Shorthand: `ragged` holds "r" and/or "c" where the last row or column of tiles is masked."""
    return Panel(name, rows, columns, tuple(own), tuple(sweep), "r" in ragged, "c" in ragged, *labels)


@dataclass(frozen=True, repr=False)
class Picture:
    """Panels side by side and one line of text below."""

    title: str
    panels: tuple[Panel, ...] = field(default=())

    def _repr_svg_(self) -> str:
        left, parts = 26, []
        height = _TOP + max(p.rows for p in self.panels) * _TILE + 44
        for one in self.panels:
            parts.append(_draw(one, left))
            left += one.columns * _TILE + _GAP
        key = (f'<text x="26" y="{height - 8}" font-size="11" fill="{_INK}">orange: what one program writes or keeps · '
               'blue: what it reads, in this order · hatched: cut off by the mask</text>')
        width = max(left, 560)
        return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
                f'font-family="sans-serif" role="img" aria-label="{self.title}"><defs><pattern id="cut" width="6" height="6" '
                'patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><line x1="0" y1="0" x2="0" y2="6" '
                f'stroke="{_INK}" stroke-width="1.4"/></pattern></defs><rect width="100%" height="100%" fill="white"/>'
                f'{"".join(parts)}{key}</svg>')

    def __repr__(self) -> str:
        return f"Picture({self.title!r}: {', '.join(f'{p.name} {p.rows}x{p.columns} tiles' for p in self.panels)})"


def _draw(p: Panel, left: int) -> str:
    middle = left + p.columns * _TILE / 2
    parts = [f'<text x="{middle}" y="16" font-size="13" font-weight="bold" text-anchor="middle" fill="{_INK}">{p.name}</text>',
             f'<text x="{middle}" y="32" font-size="11" text-anchor="middle" fill="{_INK}">{p.label_columns}</text>']
    parts += [_tile(p, row, column, left) for row in range(p.rows) for column in range(p.columns)]
    if p.label_rows:
        y = _TOP + p.rows * _TILE / 2
        parts.append(f'<text x="{left - 8}" y="{y}" font-size="11" text-anchor="middle" fill="{_INK}" '
                     f'transform="rotate(-90 {left - 8} {y})">{p.label_rows}</text>')
    return "".join(parts)


def _tile(p: Panel, row: int, column: int, left: int) -> str:
    x, y, side = left + column * _TILE, _TOP + row * _TILE, _TILE - 3
    at = (row, column)
    colour = _OWN if at in p.own else _SWEEP if at in p.sweep else _REST
    parts = [f'<rect x="{x}" y="{y}" width="{side}" height="{side}" rx="3" fill="{colour}"/>']
    if p.ragged_columns and column == p.columns - 1:
        parts.append(f'<rect x="{x + side / 2}" y="{y}" width="{side / 2}" height="{side}" fill="url(#cut)"/>')
    if p.ragged_rows and row == p.rows - 1:
        parts.append(f'<rect x="{x}" y="{y + side / 2}" width="{side}" height="{side / 2}" fill="url(#cut)"/>')
    if at in p.sweep and len(p.sweep) > 1:
        parts.append(f'<text x="{x + side / 2}" y="{y + 21}" font-size="13" text-anchor="middle" fill="white">'
                     f'{p.sweep.index(at) + 1}</text>')
    return "".join(parts)
