"""Hints, from a direction to nearly the code, and the picture of a puzzle's tiling."""

from aiinfra.lab.hints import Hint
from puzzles.catalogue import find
from puzzles.drawing import Picture
from puzzles.source import BadInput


def hint(name: str, level: int = 1) -> Hint:
    """Hint 1 gives a direction, 2 the steps, 3 nearly the code. Raises BadInput for any other."""
    puzzle = find(name)
    if level not in (1, 2, 3):
        raise BadInput(f"level={level!r}, but there are three hints: 1, 2 and 3.")
    more = ""
    if level < 3:
        more = f"`hint({puzzle.name!r}, {level + 1})` says more."
    return Hint(name=puzzle.name, level=level, text=puzzle.hints[level - 1], foot=more)


def picture(name: str) -> Picture:
    """The tiling of a puzzle: what one program touches. Raises BadInput for an unknown name."""
    puzzle = find(name)
    return Picture(puzzle.title, puzzle.picture)
