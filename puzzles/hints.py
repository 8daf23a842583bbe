"""Hints, from a direction to nearly the code, and the picture of a puzzle's tiling."""

from dataclasses import dataclass

from puzzles.catalogue import find
from puzzles.source import BadInput
from puzzles.tiling import Picture


@dataclass(frozen=True, repr=False)
class Hint:
    """One hint; it shows itself as text."""

    puzzle: str
    level: int
    text: str

    def __repr__(self) -> str:
        more = f"\n(hint({self.puzzle!r}, {self.level + 1}) says more.)" if self.level < 3 else ""
        return f"Hint {self.level} of 3 for {self.puzzle}\n{self.text}{more}"


def hint(name: str, level: int = 1) -> Hint:
    """Hint 1 gives a direction, 2 the steps, 3 nearly the code. Raises BadInput for any other."""
    puzzle = find(name)
    if level not in (1, 2, 3):
        raise BadInput(f"level={level!r}, but there are three hints: 1, 2 and 3.")
    return Hint(puzzle.name, level, puzzle.hints[level - 1])


def picture(name: str) -> Picture:
    """The tiling of a puzzle: what one program touches. Raises BadInput for an unknown name."""
    puzzle = find(name)
    return Picture(puzzle.title, puzzle.picture)
