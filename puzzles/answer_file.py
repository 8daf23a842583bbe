"""The answers in a .py or .ipynb file, taken out without running the file."""

import ast
import json
from pathlib import Path

from puzzles.cells import python_of
from puzzles.source import BadInput
from puzzles.syntax import parse

_KEPT = (ast.FunctionDef, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)


def definitions(path: Path) -> str:
    """The definitions of a file: its functions, imports and assignments, lines kept.

    Everything else (calls, loops, prints) is left out, so that judging a file runs no script. Raises
    BadInput, naming the line, for what Python cannot read.
    """
    text = _code(path)
    lines = text.splitlines()
    kept = [""] * len(lines)
    for node in _parse(text, path.name).body:
        if isinstance(node, _KEPT):
            mine = slice(_first_line(node) - 1, node.end_lineno)
            kept[mine] = lines[mine]
    return "\n".join(kept) + "\n"


def functions(text: str) -> list[str]:
    """Names of the functions that a file defines at its top level."""
    return [node.name for node in parse(text).body if isinstance(node, ast.FunctionDef)]


def _first_line(node: ast.stmt) -> int:
    """Where a definition begins, its decorators included."""
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _parse(text: str, name: str) -> ast.Module:
    try:
        return parse(text)
    except SyntaxError as error:
        message = f"{name}, line {error.lineno}: Python cannot read this file: {error.msg}."
        raise BadInput(message) from error


def _code(path: Path) -> str:
    if path.suffix != ".ipynb":
        return path.read_text()
    lines = []
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            lines += python_of("".join(cell["source"])).split("\n")
    return "\n".join(lines)
