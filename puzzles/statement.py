"""How a puzzle reads on its sheet: the exact statement, and the kernel that is still to write.

The sheets' cells are made of these two texts, and a test holds them to it.
"""

from pathlib import Path

from puzzles.puzzle import ONCE, Puzzle
from puzzles.tensors import Tensor

_ROOT = Path(__file__).parents[1]
_WIDTH = 96                              # of a line of the stub


def stub(puzzle: Puzzle) -> str:
    """The unsolved kernel, as the sheet shows it; with a grid function where the grid is the learner's."""
    parameters = [_parameter(puzzle, name) for name in puzzle.parameters]
    inside = _wrapped(parameters, indent=len(f"def {puzzle.name}("))
    kernel = f"@triton.jit\ndef {puzzle.name}({inside}):\n    pass\n"
    if puzzle.grid:
        return kernel
    return f"{kernel}\n\ndef grid_of_{puzzle.name}(meta):\n    return (1,)\n"


def markdown(puzzle: Puzzle) -> str:
    """The exact statement, as the sheet shows it."""
    formula, _, rest = puzzle.statement.partition("\n\n")
    lines = [
        f"**{puzzle.title}** · `{puzzle.name}` · about {puzzle.minutes} minutes · from {_notebook(puzzle)}",
        "",
        "```",
        formula,
        "```",
        "",
        rest,
        "",
        "| pointer | | tensor |",
        "|---|---|---|",
        *(_row(puzzle, name, tensor) for name, tensor in puzzle.tensors.items()),
        "",
        _launch(puzzle),
    ]
    return "\n".join(lines)


def _parameter(puzzle: Puzzle, name: str) -> str:
    if name in puzzle.blocks:
        return f"{name}: tl.constexpr"
    return name


def _row(puzzle: Puzzle, name: str, tensor: Tensor) -> str:
    kind = f"`{tensor}`"
    if tensor.strides:
        kind += ", with strides"
    return f"| `{name}_ptr` | {_direction(puzzle, name)} | {kind} |"


def _direction(puzzle: Puzzle, name: str) -> str:
    if name not in puzzle.inputs:
        return "out"
    if name in puzzle.outputs:
        return "changed in place"
    return "in"


def _launch(puzzle: Puzzle) -> str:
    """The grid, and how much a launch may load."""
    text = f"Grid: {_grid(puzzle)}."
    limits = [f"at most `{most}` elements of `{name}`"
              for name, most in puzzle.budget.items() if most != ONCE]
    if limits:
        text += f" A launch may load {', '.join(limits)}."
    once = [f"`{name}`" for name, most in puzzle.budget.items() if most == ONCE]
    if once:
        text += f" No program loads an element of {' or '.join(once)} twice."
    return text


def _grid(puzzle: Puzzle) -> str:
    if puzzle.grid is None:
        return f"yours: `grid_of_{puzzle.name}(meta)` returns it"
    if len(puzzle.grid) == 1:
        return f"`({puzzle.grid[0]},)`"
    return f"`({', '.join(puzzle.grid)})`"


def _notebook(puzzle: Puzzle) -> str:
    """The notebook that prepares for this puzzle; a link, as seen from a sheet, where the file exists."""
    path = f"notebooks/{puzzle.notebook}.ipynb"
    number = puzzle.notebook.split("_")[0]
    if not (_ROOT / path).is_file():
        return f"notebook {number}"
    return f"notebook [{number}](../../{path})"


def _wrapped(words: list[str], indent: int) -> str:
    """Words with commas, broken into lines that start at `indent`."""
    *before, last = words
    lines = [""]
    for word in [f"{word}," for word in before] + [last]:
        if indent + len(lines[-1]) + len(word) > _WIDTH:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".lstrip()
    return ("\n" + " " * indent).join(lines)
