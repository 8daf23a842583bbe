"""All puzzles, in the order of the sheets, and the lookup that forgives a typo."""

import difflib
from importlib import import_module

from puzzles.puzzle import Puzzle
from puzzles.source import BadInput

SHEETS = {1: "First blocks", 2: "Loops and reductions", 3: "Matrices", 4: "Attention", 5: "Serving"}
PUZZLES: dict[str, Puzzle] = {
    value.name: value for sheet in SHEETS for value in vars(import_module(f"puzzles.specs.sheet{sheet}")).values()
    if isinstance(value, Puzzle)}


def find(name: str) -> Puzzle:
    """The puzzle of that name. Raises BadInput, naming the nearest, if there is none."""
    if name in PUZZLES:
        return PUZZLES[name]
    near = difflib.get_close_matches(str(name), PUZZLES, 1, cutoff=0.3)
    nearest = f"; the nearest is {near[0]!r}" if near else ""
    raise BadInput(f"There is no puzzle {name!r}{nearest}. `python -m puzzles` lists all.")
