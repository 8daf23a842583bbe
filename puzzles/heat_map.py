"""Where an output differs from the answer, drawn as a matrix of small squares."""

import math
from html import escape

from puzzles.judge.verdict import HeatMap

_CELL_PIXELS = 9
_RIGHT = "#C8CDD2"


def heat_svg(heat: HeatMap) -> str:
    """Grey: within rounding. Light to dark red: further and further off."""
    squares = []
    for y, row in enumerate(heat.rows):
        for x, ratio in enumerate(row):
            squares.append(_square(x, y, ratio))
    name = escape(heat.tensor)
    shape = " x ".join(map(str, heat.shape))
    told = f"{name} [{shape}]: grey is right, red is wrong, dark red is far off"
    width, height = len(heat.rows[0]) * _CELL_PIXELS, len(heat.rows) * _CELL_PIXELS
    size = f'width="{width}" height="{height}"'
    svg = f'<svg {size} role="img" aria-label="where {name} differs">{"".join(squares)}</svg>'
    return f'<div style="margin:4px 0">{told}<br>{svg}</div>'


def _square(x: int, y: int, ratio: float) -> str:
    side = _CELL_PIXELS - 1
    place = f'x="{x * _CELL_PIXELS}" y="{y * _CELL_PIXELS}"'
    return f'<rect {place} width="{side}" height="{side}" fill="{_colour(ratio)}"/>'


def _colour(ratio: float) -> str:
    if ratio <= 1:
        return _RIGHT
    depth = math.log10(ratio) / 6                          # allowed error x 1 ... x 1,000,000
    lightness = 70 - 45 * min(1.0, depth)
    return f"hsl(16, 90%, {lightness:.0f}%)"
