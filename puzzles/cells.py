"""A notebook's cell as Python: Jupyter's own commands become empty lines, all others stay where they are.

    %%time                       (an empty line)
    @triton.jit                  @triton.jit
    def add(...):          ──►   def add(...):
"""

import ast
import re
import sys

from puzzles.syntax import parse

# Cell magics that run the cell as Python; after others, such as %%bash, it holds something else.
_RUNS_PYTHON = {"time", "timeit", "capture", "prun", "debug", "memit", "mprun", "lprun"}
_COMMANDS = r"[%!?]|[\w, ]+ = ?[%!]|[\w.]+\?"
_MAGICS = (r"(?!)", rf"({_COMMANDS})", rf"\s*({_COMMANDS})")       # none; at the left edge; indented, too


def python_of(cell: str) -> str:
    """The Python in a cell, line for line.

    A line of an expression may begin with % as well, so no more is taken for a command than must be.
    """
    first, _, rest = cell.lstrip("\n").partition("\n")
    if first.startswith("%%"):
        magic = re.match(r"%%(\w*)", first)[1]
        if magic not in _RUNS_PYTHON:
            rest = re.sub(r".+", "", rest)
        above = cell[:len(cell) - len(cell.lstrip("\n"))]
        cell = f"{above}\n{rest}"
    for magics in _MAGICS:
        lines = ["" if re.match(magics, line) else line for line in cell.split("\n")]
        text = "\n".join(lines)
        if _is_python(text):
            break
    return text


def lines_in_a_cell(name: str) -> tuple[list[str], int] | None:
    """A function's lines, decorators included, and the number of the first, in the last cell that defined it.

    %%time runs a cell in a way that inspect cannot follow. None if this is no notebook, or no cell has it.
    """
    if "IPython" not in sys.modules:
        return None
    shell = sys.modules["IPython"].get_ipython()
    if shell is None:
        return None
    for cell in reversed(shell.history_manager.input_hist_raw):
        text = python_of(cell)
        if _is_python(text) and (found := _function(text, name)):
            first = min([found.lineno, *(decorator.lineno for decorator in found.decorator_list)])
            return text.splitlines(keepends=True)[first - 1:found.end_lineno], first
    return None


def _function(text: str, name: str) -> ast.FunctionDef | None:
    for node in parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node
    return None


def _is_python(text: str) -> bool:
    try:
        parse(text)
    except (SyntaxError, ValueError):
        return False
    return True
