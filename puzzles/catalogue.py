"""All puzzles, in the order of the sheets, and the lookup that forgives a typo."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path

from aiinfra.errors import nearest_name
from puzzles.puzzle import Puzzle
from puzzles.source import BadInput

SHEETS = {1: "First blocks", 2: "Loops and reductions", 3: "Matrices", 4: "Attention", 5: "Serving"}


def _of_sheet(sheet: int) -> list[Puzzle]:
    """The puzzles that a file of specs defines, in its order, with the sheet's number."""
    module = import_module(f"puzzles.specs.sheet{sheet}")
    found = [value for value in vars(module).values() if isinstance(value, Puzzle)]
    return [replace(puzzle, sheet=sheet) for puzzle in found]


PUZZLES: dict[str, Puzzle] = {puzzle.name: puzzle for sheet in SHEETS for puzzle in _of_sheet(sheet)}


def find(name: str) -> Puzzle:
    """The puzzle of that name. Raises BadInput, naming the nearest, if there is none."""
    if name in PUZZLES:
        return PUZZLES[name]
    message = f"There is no puzzle {name!r}"
    if near := nearest_name(name, PUZZLES, cutoff=0.3):
        message += f"; the nearest is {near!r}"
    raise BadInput(f"{message}. `python -m puzzles` lists all.")


def sheet_path(sheet: int) -> Path:
    """The notebook of a sheet."""
    slug = SHEETS[sheet].lower().replace(" ", "_")
    return Path(__file__).parent / "sheets" / f"{sheet}_{slug}.ipynb"
