"""What the notebook tests share: the notebooks, their exercises, solutions and wrong answers.

    notebooks/01_x.ipynb            cells tagged exercise:01.name
    notebooks/solutions/01_x.py     # %% 01.name                  the cell with the answer in it
    notebooks/wrong/01_x.py   # %% setup                    imports and data, may be absent
                                    # %% 01.name | words          a wrong answer, and what the message says
"""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


@dataclass(frozen=True)
class Section:
    """One `# %%` part of a percent-format file: its name, the words after `|`, its code."""

    name: str
    words: str
    code: str


def sections(path: Path) -> list[Section]:
    """The sections of a percent-format file, in order; [] if there is no such file."""
    if not path.exists():
        return []
    parts = re.split(r"^# %% *(.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return [Section(*(word.strip() for word in (title + "|").split("|")[:2]), code.strip("\n"))
            for title, code in zip(parts[::2], parts[1::2], strict=True)]


def solutions(notebook: Path) -> dict[str, str]:
    """Exercise name -> source of the solved cell."""
    return {section.name: section.code
            for section in sections(notebook.parent / "solutions" / f"{notebook.stem}.py")}


def wrong_answers(notebook: Path) -> list[Section]:
    """All known-wrong answers of a notebook, without the setup section."""
    return [section for section in sections(_wrong_file(notebook)) if section.name != "setup"]


def setup(notebook: Path) -> str:
    """The setup section of the wrong-answers file, or ""."""
    return next((section.code for section in sections(_wrong_file(notebook)) if section.name == "setup"), "")


def _wrong_file(notebook: Path) -> Path:
    return ROOT / "notebooks" / "wrong" / f"{notebook.stem}.py"


def load(notebook: Path) -> nbformat.NotebookNode:
    """The notebook, as nbformat 4."""
    return nbformat.read(notebook, as_version=4)


def exercises(notebook: Path) -> dict[str, nbformat.NotebookNode]:
    """Exercise name -> its cell, by the tag `exercise:<name>`."""
    return {tag.removeprefix("exercise:"): cell for cell in load(notebook).cells
            for tag in cell.metadata.get("tags", []) if tag.startswith("exercise:")}


def run_cell(code: str, namespace: dict, file: Path) -> object:
    """Run a cell's code as a notebook would; returns the value of its last expression.

    The code is written to `file` first, so that inspect.getsource and tracebacks find it.
    """
    file.write_text(code, encoding="utf-8")
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(file), "exec"), namespace)
    return eval(compile(ast.Expression(last.value), str(file), "eval"), namespace) if last else None
