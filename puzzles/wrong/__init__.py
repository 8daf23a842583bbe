"""Known-wrong answers: each is the solution with one thing changed, and the finding that must come first.

The tests hold the judge to this: every solution passes, and every answer here is rejected for the
stated reason. `old` must occur in the solution, so a change there cannot turn a wrong answer right.
"""

import ast
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path


@dataclass(frozen=True)
class Wrong:
    """One wrong answer: what is wrong, the kind of the first finding, and (old, new) edits."""

    puzzle: str
    what: str
    expect: str
    edits: tuple[tuple[str, str], ...]


def wrong(puzzle: str, what: str, expect: str, *texts: str) -> Wrong:
    """`texts`: old, new, old, new, ..."""
    return Wrong(puzzle, what, expect, tuple(zip(texts[::2], texts[1::2], strict=True)))


def all_wrong() -> list[Wrong]:
    """Every known-wrong answer, sheet by sheet."""
    return [answer for sheet in range(1, 6) for answer in import_module(f"puzzles.wrong.sheet{sheet}").ANSWERS]


def solution_text(sheet: int) -> str:
    """The file with a sheet's solutions."""
    return (Path(__file__).parents[1] / "solutions" / f"sheet{sheet}.py").read_text()


def solution_parts(text: str, name: str) -> tuple[str, str]:
    """(everything else, the solution of one puzzle with its decorator and, if it has one, its grid)."""
    lines, mine = text.splitlines(keepends=True), set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name in (name, f"grid_of_{name}"):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            mine |= set(range(first - 1, node.end_lineno))
    return ("".join(line for i, line in enumerate(lines) if i not in mine),
            "".join(line for i, line in enumerate(lines) if i in mine))


def wrong_text(answer: Wrong, sheet: int) -> str:
    """The sheet's solutions with this answer's edits. Raises ValueError if an edit finds nothing."""
    rest, mine = solution_parts(solution_text(sheet), answer.puzzle)
    for old, new in answer.edits:
        if old not in mine:
            raise ValueError(f"{answer.puzzle}, {answer.what}: {old!r} is not in the solution")
        mine = mine.replace(old, new)
    return f"{rest}\n\n{mine}"
