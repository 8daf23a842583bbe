"""Known-wrong answers: each is the solution with one thing changed, and the finding that must come first.

The tests hold the judge to this: every solution passes, and every answer here is rejected for the
stated reason. `old` must occur in the solution, so a change there cannot turn a wrong answer right.
"""

import ast
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from puzzles.syntax import parse


@dataclass(frozen=True)
class WrongAnswer:
    """One wrong answer: what is wrong, the kind of the first finding, and (old, new) edits."""

    puzzle: str
    what: str
    expect: str
    edits: tuple[tuple[str, str], ...]


def wrong(puzzle: str, what: str, expect: str, *texts: str) -> WrongAnswer:
    """`texts`: old, new, old, new, ..."""
    edits = tuple(zip(texts[::2], texts[1::2], strict=True))
    return WrongAnswer(puzzle=puzzle, what=what, expect=expect, edits=edits)


def all_wrong() -> list[WrongAnswer]:
    """Every known-wrong answer, sheet by sheet."""
    answers = []
    for file in sorted(Path(__file__).parent.glob("sheet*.py")):
        answers += import_module(f"puzzles.wrong.{file.stem}").ANSWERS
    return answers


def solution_text(sheet: int) -> str:
    """The file with a sheet's solutions."""
    return (Path(__file__).parents[1] / "solutions" / f"sheet{sheet}.py").read_text()


def solution_parts(text: str, name: str) -> tuple[str, str]:
    """(everything else, the solution of one puzzle with its decorator and, if it has one, its grid)."""
    names = (name, f"grid_of_{name}")
    mine: set[int] = set()
    for node in parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name in names:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            mine |= set(range(first - 1, node.end_lineno))
    lines = text.splitlines(keepends=True)
    rest = [line for i, line in enumerate(lines) if i not in mine]
    answer = [line for i, line in enumerate(lines) if i in mine]
    return "".join(rest), "".join(answer)


def wrong_text(answer: WrongAnswer, sheet: int) -> str:
    """The sheet's solutions with this answer's edits. Raises ValueError if an edit finds nothing."""
    rest, mine = solution_parts(solution_text(sheet), answer.puzzle)
    for old, new in answer.edits:
        if old not in mine:
            raise ValueError(f"{answer.puzzle}, {answer.what}: {old!r} is not in the solution")
        mine = mine.replace(old, new)
    return f"{rest}\n\n{mine}"
