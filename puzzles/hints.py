"""Hints, from a direction to nearly the code, and the picture of a puzzle's tiling."""

from aiinfra.lab.hints import Help, Hint
from puzzles.catalogue import find
from puzzles.drawing import Picture
from puzzles.source import BadInput


def help_for(name: str) -> Help:
    """The hints for a puzzle. Raises BadInput for an unknown name."""
    puzzle = find(name)
    return Help(name=puzzle.name, hints=puzzle.hints, answers="puzzles/solutions/")


def hint(name: str, level: int | None = None) -> Hint:
    """The next hint, or that of `level`: 1 gives a direction, 2 the idea, 3 nearly the code.

    Raises BadInput for a name or a level that does not exist.
    """
    help_ = help_for(name)
    try:
        return help_.give(level)
    except ValueError as error:
        raise BadInput(str(error)) from None


def picture(name: str) -> Picture:
    """The tiling of a puzzle: what one program touches. Raises BadInput for an unknown name."""
    puzzle = find(name)
    return Picture(puzzle.title, puzzle.picture)
