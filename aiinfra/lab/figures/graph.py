"""A computation as boxes and arrows: what was made of what, its value, and the gradient that came back.

    w ──┐
        ├─► * ──┐            left to right: the order of the computation
    x ──┘       ├─► + ──►    under a box's name: its value and, after a backward pass, its gradient
    b ──────────┘

`value_graph` reads a graph of numbers made by hand (anything with op, parents, data, grad and name),
`torch_graph` the one that PyTorch keeps behind a tensor. Nothing is computed here. Notebook 02.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from aiinfra.lab import style

_COLUMN, _ROW = 1.3, 0.72                # inches between the middles of two boxes
_WIDTH, _HEIGHT = 0.94, 0.46              # of a box, in inches
_NARROWEST = 4.0                          # inches, so that a title fits
_MOST = 60                                # boxes; more cannot be read


@dataclass(frozen=True)
class GraphNode:
    """A box: its name, what stands under it, and the numbers of the boxes that it was made of."""

    name: str
    parents: tuple[int, ...] = ()
    value: str = ""
    gradient: str = ""


def value_graph(root: Any, title: str = "", gradients: bool = True) -> Figure:
    """The graph behind `root`, an object with op ("" for a leaf), parents, data, grad and name, as its
    parents are. Raises ValueError if it has more boxes than can be read."""
    found = _behind(root, lambda node: node.parents)
    at = {id(node): number for number, node in enumerate(found)}
    boxes = []
    for node in found:
        gradient = f"{node.grad:.2g}" if gradients else ""
        box = GraphNode(
            name=node.op or node.name or "constant",
            parents=tuple(at[id(parent)] for parent in node.parents),
            value=f"{node.data:.3g}",
            gradient=gradient,
        )
        boxes.append(box)
    return draw(boxes, title)


def torch_graph(tensor: Tensor, names: Mapping[str, Tensor], title: str = "") -> Figure:
    """The graph that PyTorch keeps for the backward pass from `tensor`; `names` are its leaves'.

    Raises ValueError if it has more boxes than can be read, or if nothing was recorded.
    """
    if tensor.grad_fn is None:
        raise ValueError("nothing was recorded: no input of this tensor has requires_grad=True.")
    leaves = {id(leaf): name for name, leaf in names.items()}
    found = _behind(tensor.grad_fn, _recorded_inputs)
    at = {id(node): number for number, node in enumerate(found)}
    boxes = []
    for node in found:
        leaf = leaves.get(id(getattr(node, "variable", None)))
        parents = tuple(at[id(parent)] for parent in _recorded_inputs(node))
        name = node.name().removesuffix("Backward0")
        boxes.append(GraphNode(name=leaf or name, parents=parents))
    return draw(boxes, title)


def _recorded_inputs(node: Any) -> list[Any]:
    return [parent for parent, _ in node.next_functions if parent is not None]


def _behind(root: Any, parents_of: Any) -> list[Any]:
    """`root` and all that it was made of, each once."""
    found, waiting = {id(root): root}, [root]
    while waiting:
        for parent in parents_of(waiting.pop()):
            if id(parent) not in found:
                found[id(parent)] = parent
                waiting.append(parent)
    return list(found.values())


def draw(nodes: Sequence[GraphNode], title: str = "") -> Figure:
    """Boxes in columns, each right of all that it was made of. Raises ValueError for more than 60 boxes."""
    if len(nodes) > _MOST:
        raise ValueError(f"{len(nodes)} boxes; at most {_MOST} can be read. Draw a smaller computation.")
    columns = _columns(nodes)
    rows = _rows(nodes, columns)
    last = _COLUMN * max(columns)
    bottom, top = _ROW * min(rows), _ROW * max(rows)
    width = max(last + _WIDTH + 0.3, _NARROWEST)
    height = top - bottom + _HEIGHT + 0.5
    fig, ax = style.axes("", "", title, size=(width, height))
    places = [(_COLUMN * column, _ROW * row) for column, row in zip(columns, rows)]
    for node, place in zip(nodes, places):
        for parent in node.parents:
            _arrow(ax, places[parent], place)
        _box(ax, node, place)
    ax.set(xlim=(-0.55, last + 0.55), ylim=(bottom - 0.35, top + 0.35), aspect="equal")
    ax.axis("off")
    style.plt.close(fig)                  # shown once, as the cell's result
    return fig


def _columns(nodes: Sequence[GraphNode]) -> list[int]:
    """One right of the last of its parents; a leaf just left of the first box that uses it."""
    depth: dict[int, int] = {}

    def deep(number: int) -> int:
        if number not in depth:
            parents = [deep(parent) for parent in nodes[number].parents]
            depth[number] = 1 + max(parents, default=-1)
        return depth[number]

    columns = [deep(number) for number in range(len(nodes))]
    users: dict[int, list[int]] = {}
    for node, column in zip(nodes, columns):
        for parent in node.parents:
            users.setdefault(parent, []).append(column)
    for number, node in enumerate(nodes):
        if not node.parents and number in users:
            columns[number] = min(users[number]) - 1
    return columns


def _rows(nodes: Sequence[GraphNode], columns: Sequence[int]) -> list[float]:
    """Column by column from the right: each box near those that use it, none on another."""
    wanted: dict[int, list[float]] = {}
    rows = [0.0] * len(nodes)
    for column in sorted(set(columns), reverse=True):
        here = [number for number, its in enumerate(columns) if its == column]
        wishes = {number: _mean(wanted.get(number, [0.0])) for number in here}
        here.sort(key=lambda number: -wishes[number])
        _spread(rows, here, wishes)
        for number in here:
            _wish(wanted, nodes[number], rows[number])
    return rows


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _wish(wanted: dict[int, list[float]], node: GraphNode, row: float) -> None:
    """What a box was made of would like to stand beside it, the first above the second."""
    middle = (len(node.parents) - 1) / 2
    for place, parent in enumerate(node.parents):
        wanted.setdefault(parent, []).append(row + middle - place)


def _spread(rows: list[float], here: Sequence[int], wishes: Mapping[int, float]) -> None:
    """Give each box of a column its wish, or the next free place under the one above it."""
    above = float("inf")
    for number in here:
        rows[number] = min(wishes[number], above - 1)
        above = rows[number]
    shift = _mean([wishes[number] - rows[number] for number in here])
    for number in here:
        rows[number] += shift


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    begin = (start[0] + _WIDTH / 2, start[1])
    stop = (end[0] - _WIDTH / 2, end[1])
    look = {"arrowstyle": "-|>", "color": style.BOUND, "lw": 0.9, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", stop, begin, arrowprops=look)


def _box(ax: Axes, node: GraphNode, place: tuple[float, float]) -> None:
    x, y = place
    face = style.PALE if node.parents else "white"
    corner = (x - _WIDTH / 2, y - _HEIGHT / 2)
    ax.add_patch(style.plt.Rectangle(corner, _WIDTH, _HEIGHT, fc=face, ec=style.LIGHT, lw=0.9, zorder=3))
    above = 0.1 if node.value else 0.0
    ax.text(x, y + above, node.name, ha="center", va="center", fontsize=8.5, weight="bold", zorder=4)
    if not node.gradient:
        ax.text(x, y - 0.12, node.value, ha="center", va="center", fontsize=8, zorder=4)
        return
    ax.text(x - 0.04, y - 0.12, node.value, ha="right", va="center", fontsize=7.5, zorder=4)
    colour = style.EXTRA[0]
    ax.text(x + 0.04, y - 0.12, node.gradient, ha="left", va="center", fontsize=7.5, color=colour, zorder=4)
