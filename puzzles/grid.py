"""How many programs run: the puzzle's own grid, or the one that the learner passes.

A few puzzles leave the grid open. There, `grid` is what Triton itself takes: a tuple, or a function
of the sizes and blocks: `lambda meta: (triton.cdiv(meta["N"], meta["BLOCK"]),)`.
"""

import traceback
from collections.abc import Callable
from typing import Any

from puzzles.puzzle import Case, Puzzle
from puzzles.source import BadInput

Grid = tuple[int, ...]
_MOST_SAID = 200


def launch_grids(puzzle: Puzzle, grid: Any, seed: int) -> list[Grid]:
    """The launch grid of every case of a judgement, the large one last: the puzzle's own, or the learner's.

    Raises BadInput for a grid that is missing, one too many, or no grid.
    """
    cases = [*puzzle.cases_of(seed), puzzle.big]
    if puzzle.grid is None:
        return _learners_grids(puzzle, grid, cases)
    if grid is not None:
        raise BadInput(f"Puzzle {puzzle.name} states its grid, ({', '.join(puzzle.grid)}): leave out grid=.")
    return [puzzle.launch_grid(case) for case in cases]


def _learners_grids(puzzle: Puzzle, grid: Any, cases: list[Case]) -> list[Grid]:
    if grid is None:
        example = "lambda meta: (triton.cdiv(meta['N'], meta['BLOCK']),)"
        raise BadInput(f"Puzzle {puzzle.name} leaves the grid to you: "
                       f"pass grid=, a function of the sizes such as {example}.")
    grids = []
    for case in cases:
        wanted = grid
        if callable(grid):
            wanted = _called(grid, puzzle.meta(case))
        grids.append(_checked(wanted, case))
    return grids


def _called(grid: Callable, meta: dict[str, float]) -> Any:
    """What the learner's grid function returns. Raises BadInput, with its line, for whatever it raises."""
    try:
        return grid(dict(meta))
    except Exception as error:                  # it is the learner's code: anything may come
        what = f"{type(error).__name__}: {_first_line(error)}{_own_line(grid, error)}"
        raise BadInput(f"Your grid function raised {what}; meta has {', '.join(meta)}.") from error


def _own_line(grid: Callable, error: Exception) -> str:
    """Where in the grid function the error arose: " (line 7)"."""
    if not hasattr(grid, "__code__"):
        return ""
    _, *frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == grid.__code__.co_filename]
    if not lines:
        return ""
    return f" (line {lines[-1]})"


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines() or ["no message"]
    return lines[0][:_MOST_SAID]


def _checked(grid: Any, case: Case) -> Grid:
    if _is_grid(grid):
        return grid
    message = f"The grid must be a tuple of one to three positive integers, but for {case} it is {grid!r}."
    if isinstance(grid, tuple) and 0 in grid:
        message += " Was it rounded down? triton.cdiv rounds up."
    raise BadInput(message)


def _is_grid(grid: Any) -> bool:
    if not isinstance(grid, tuple) or not 1 <= len(grid) <= 3:
        return False
    return all(isinstance(n, int) and n > 0 for n in grid)
