"""How many programs run: the puzzle's own grid, or the one that the learner passes.

A few puzzles leave the grid open. There, `grid` is what Triton itself takes: a tuple, or a function
of the sizes and blocks: `lambda meta: (triton.cdiv(meta["N"], meta["BLOCK"]),)`.
"""

import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from puzzles.puzzle import Case, Puzzle
from puzzles.source import BadInput

Grid = tuple[int, ...]
MOST_PROGRAMS = 1 << 14                     # that are interpreted in one launch, each in about a millisecond
_MOST_ON_GPU = (1 << 31) - 1
_MOST_SAID = 200


def launch_grids(puzzle: Puzzle, grid: Any, seed: int) -> list[Grid]:
    """The launch grid of every case of a judgement, the large one last: the puzzle's own, or the learner's.

    Raises BadInput for a grid that is missing, one too many, no grid, or more programs than can be judged.
    """
    if puzzle.grid is None:
        return checked_grids(puzzle, called_grids(grid, metas(puzzle, seed)), seed)
    if grid is not None:
        raise BadInput(f"Puzzle {puzzle.name} states its grid, ({', '.join(puzzle.grid)}): leave out grid=.")
    return own_grids(puzzle, seed)


def own_grids(puzzle: Puzzle, seed: int) -> list[Grid]:
    """The grids that a puzzle states."""
    return [puzzle.launch_grid(case) for case in _all_cases(puzzle, seed)]


def metas(puzzle: Puzzle, seed: int) -> list[dict[str, float]]:
    """What a grid function receives in each case of a judgement."""
    return [puzzle.meta(case) for case in _all_cases(puzzle, seed)]


def called_grids(grid: Any, metas: Sequence[Mapping[str, float]]) -> list[Any]:
    """What the learner's `grid` comes to in each case; this may run their code. Raises BadInput for none."""
    if grid is None:
        example = "lambda meta: (triton.cdiv(meta['N'], meta['BLOCK']),)"
        raise BadInput("This puzzle leaves the grid to you: "
                       f"pass grid=, a function of the sizes such as {example}.")
    if not callable(grid):
        return [grid] * len(metas)
    return [_called(grid, meta) for meta in metas]


def checked_grids(puzzle: Puzzle, wanted: Sequence[Any], seed: int) -> list[Grid]:
    """The learner's grids, one for each case. Raises BadInput for what is no grid, or too large."""
    *cases, big = _all_cases(puzzle, seed)
    grids = [_checked(grid, case, MOST_PROGRAMS, puzzle) for grid, case in zip(wanted, cases)]
    return [*grids, _checked(wanted[len(cases)], big, _MOST_ON_GPU, puzzle)]


def _all_cases(puzzle: Puzzle, seed: int) -> list[Case]:
    return [*puzzle.cases_of(seed), puzzle.big]


def _called(grid: Callable, meta: Mapping[str, float]) -> Any:
    """What the learner's grid function returns. Raises BadInput, with its line, for whatever it raises."""
    try:
        return grid(dict(meta))
    except (Exception, SystemExit) as error:    # it is the learner's code: anything may come
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


def _checked(grid: Any, case: Case, most: int, puzzle: Puzzle) -> Grid:
    if not _is_grid(grid):
        must = "The grid must be a tuple of one to three positive integers"
        message = f"{must}, but for {case} it is {grid!r}."
        if isinstance(grid, tuple) and 0 in grid:
            message += " Was it rounded down? triton.cdiv rounds up."
        raise BadInput(message)
    programs = math.prod(grid)
    if programs > most:
        message = f"The grid for {case} is {grid}: {programs:,} programs, and at most {most:,} are launched."
        enough = puzzle.enough_programs(case)
        if enough is not None:
            message += f" {enough:,} would do: one for each tile."
        raise BadInput(message)
    return tuple(map(int, grid))


def _is_grid(grid: Any) -> bool:
    if not isinstance(grid, tuple) or not 1 <= len(grid) <= 3:
        return False
    return all(isinstance(n, int) and n > 0 for n in grid)
