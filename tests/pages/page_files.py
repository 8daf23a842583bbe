"""What the tests of pages share: notebooks and sheets, their exercises, solutions and wrong answers.

    notebooks/01_x.ipynb              cells tagged exercise:01.name
    notebooks/solutions/01_x.py       # %% 01.name                  the cell with the answer in it
    notebooks/wrong/01_x.py           # %% setup                    imports and data, may be absent
                                      # %% 01.name | words          a wrong answer, and what the message says
    puzzles/sheets/1_x.ipynb          cells tagged puzzle:name
    puzzles/solutions/sheet1.py       a function for each
"""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import nbformat

from puzzles.wrong import solution_parts, solution_text

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*_*.ipynb"))
SHEETS = sorted((ROOT / "puzzles" / "sheets").glob("[0-9]_*.ipynb"))
PAGES = [*NOTEBOOKS, *SHEETS]


def number_of(page: Path) -> str:
    """08, or 10b: what stands before the first underscore."""
    return page.stem.split("_")[0]


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
    found = []
    for title, code in zip(parts[::2], parts[1::2], strict=True):
        name, _, words = title.partition("|")
        found.append(Section(name.strip(), words.partition("|")[0].strip(), code.strip("\n")))
    return found


def solutions(page: Path) -> dict[str, str]:
    """Exercise name -> source of the solved cell."""
    if page in SHEETS:
        return {name: _solved_puzzle(page, name, cell.source) for name, cell in exercises(page).items()}
    return {section.name: section.code for section in sections(page.parent / "solutions" / f"{page.stem}.py")}


def _solved_puzzle(page: Path, name: str, stub: str) -> str:
    """The puzzle's solution, and under it the last line of its cell: the call of check."""
    answer = solution_parts(solution_text(int(page.stem[0])), name)[1]
    return f"{answer}\n{stub.splitlines()[-1]}"


def wrong_answers(notebook: Path) -> list[Section]:
    """All known-wrong answers of a notebook, without the setup section."""
    return [section for section in sections(_wrong_file(notebook)) if section.name != "setup"]


def setup(notebook: Path) -> str:
    """The setup section of the wrong-answers file, or ""."""
    return next((section.code for section in sections(_wrong_file(notebook)) if section.name == "setup"), "")


def _wrong_file(notebook: Path) -> Path:
    return ROOT / "notebooks" / "wrong" / f"{notebook.stem}.py"


def load(page: Path) -> nbformat.NotebookNode:
    """The page, as nbformat 4."""
    return nbformat.read(page, as_version=4)


def code_cells(page: Path) -> list[nbformat.NotebookNode]:
    """Its code cells, in order."""
    return [cell for cell in load(page).cells if cell.cell_type == "code"]


def prose(page: Path) -> str:
    """The text between the cells."""
    return "\n".join(cell.source for cell in load(page).cells if cell.cell_type == "markdown")


def tags(cell: nbformat.NotebookNode) -> list[str]:
    """The tags of a cell."""
    return cell.metadata.get("tags", [])


def exercise_of(cell: nbformat.NotebookNode) -> str | None:
    """The name of the exercise (of a sheet: the puzzle) that a cell is the stub of, or None."""
    names = [tag.partition(":")[2] for tag in tags(cell) if tag.startswith(("exercise:", "puzzle:"))]
    return names[0] if names else None


def exercises(page: Path) -> dict[str, nbformat.NotebookNode]:
    """Exercise name -> its cell, in the order of the page."""
    return {name: cell for cell in load(page).cells if (name := exercise_of(cell))}


def shown(cell: nbformat.NotebookNode) -> str:
    """All text that the outputs of a cell show."""
    parts = []
    for out in cell.get("outputs", []):
        bodies = [body for kind, body in out.get("data", {}).items() if kind.startswith("text/")]
        parts += [out.get("text", ""), *out.get("traceback", []), *bodies]
    return "".join(map(str, parts))


def run_cell(code: str, namespace: dict, file: Path) -> object:
    """Run a cell's code as a notebook would; returns the value of its last expression.

    The code is written to `file` first, so that inspect.getsource and tracebacks find it.
    """
    file.write_text(code, encoding="utf-8")
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(file), "exec"), namespace)
    return eval(compile(ast.Expression(last.value), str(file), "eval"), namespace) if last else None
