"""What a worker's child does with a job. Importing this loads Triton, the specs and the judge."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import triton                                     # noqa: F401  loaded before the fork
import triton.language                            # noqa: F401

from puzzles.catalogue import PUZZLES
from puzzles.grid import launch_grids
from puzzles.judge import compiled, gpu
from puzzles.judge.explain import explain, place
from puzzles.judge.interpret import judge
from puzzles.judge.verdict import Finding, rejected
from puzzles.judge.worker import Job, OutOfTime, time_limit
from puzzles.puzzle import Puzzle
from puzzles.source import BadInput, Piece, load


class _Unloadable(Exception):
    """The learner's text does not make a kernel; carries the finding."""


def work(job: Job, folder: Path, printed: Callable[[], str]) -> Any:
    """Do one job. Returns a Verdict ("interpret") or (figures, findings) ("compile", "gpu")."""
    puzzle = job.puzzle if isinstance(job.puzzle, Puzzle) else PUZZLES[job.puzzle]
    files: dict[str, Piece] = {str(folder / f"piece{i}.py"): piece for i, piece in enumerate(job.source.pieces)}
    try:
        kernel, files, space = _load(job, folder, files)
        grids = [*job.grids] if job.grids else launch_grids(puzzle, space.get(f"grid_of_{puzzle.name}"))
        if job.do == "compile":
            return compiled.compile_all(puzzle, kernel, files)
        if job.do == "gpu":
            return gpu.run(puzzle, kernel, files, job.seed, grids[-1])
        return replace(judge(puzzle, kernel, files, job.seed, grids.__getitem__), printed=printed())
    except BadInput as error:
        return _refuse(job, puzzle, Finding("bad_input", str(error)))
    except _Unloadable as error:
        return _refuse(job, puzzle, error.args[0])
    except OutOfTime as error:
        return _refuse(job, puzzle, time_limit(job.seconds, *(place(error, files) or (None, ""))))


def _load(job: Job, folder: Path, files: dict[str, Piece]) -> tuple[Any, dict[str, Piece], dict[str, Any]]:
    try:
        return load(job.source, folder)
    except BadInput:
        raise
    except Exception as error:                    # the learner's own top-level code may raise anything
        raise _Unloadable(explain(error, files)) from error


def _refuse(job: Job, puzzle: Puzzle, finding: Finding) -> Any:
    return rejected(puzzle.name, finding, seed=job.seed) if job.do == "interpret" else (None, [finding])
