"""How many programs run: the puzzle's own grid, or the one that the learner passes.

A few puzzles leave the grid open. There, `grid` is what Triton itself takes: a tuple, or a function
of the sizes and blocks: `lambda meta: (triton.cdiv(meta["N"], meta["BLOCK"]),)`.
"""

import traceback
from collections.abc import Callable
from typing import Any

from puzzles.puzzle import Case, Puzzle
from puzzles.source import BadInput


def launch_grids(puzzle: Puzzle, grid: Any) -> list[tuple[int, ...]]:
    """The launch grid of every case, the large one last: the puzzle's own, or the learner's."""
    cases = [*puzzle.cases, puzzle.big]
    if puzzle.grid is not None:
        if grid is not None:
            raise BadInput(f"Puzzle {puzzle.name} states its grid, ({', '.join(puzzle.grid)}): leave out grid=.")
        return [puzzle.launch_grid(case) for case in cases]
    if grid is None:
        raise BadInput(f"Puzzle {puzzle.name} leaves the grid to you: pass grid=, a function of the sizes such as "
                       "lambda meta: (triton.cdiv(meta['N'], meta['BLOCK']),).")
    return [_checked(_called(grid, puzzle.meta(case)) if callable(grid) else grid, case) for case in cases]


def _called(grid: Callable, meta: dict[str, float]) -> Any:
    """What the learner's grid function returns. Raises BadInput, with its line, for whatever it raises."""
    try:
        return grid(dict(meta))
    except Exception as error:                  # it is the learner's code: anything may come
        frames = traceback.extract_tb(error.__traceback__)[1:]
        own = [f.lineno for f in frames if f.filename == grid.__code__.co_filename] if hasattr(grid, "__code__") else []
        line = f" (line {own[-1]})" if own else ""
        raise BadInput(f"Your grid function raised {type(error).__name__}: {_first_line(error)}{line}; "
                       f"meta has {', '.join(meta)}.") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "no message")[:200]


def _checked(grid: Any, case: Case) -> tuple[int, ...]:
    if not (isinstance(grid, tuple) and 1 <= len(grid) <= 3 and all(isinstance(n, int) and n > 0 for n in grid)):
        down = " Was it rounded down? triton.cdiv rounds up." if isinstance(grid, tuple) and 0 in grid else ""
        raise BadInput(f"The grid must be a tuple of one to three positive integers, but for {case} it is {grid!r}.{down}")
    return grid
