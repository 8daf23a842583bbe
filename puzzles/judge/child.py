"""What a fork of the judge's process does with a job: rebuild the kernel from its text, and do one stage.

    (stage, job) ──► kernel ──► interpret.py | compiled.py | gpu.py ──► Reply

Importing this loads Triton, the specs and the judge, before the first fork. Whatever the learner's text does,
a Reply comes back; only a crash of the whole process is process.py's business.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import aiinfra.kernels.lang                       # noqa: F401  Triton, loaded before the fork; bfloat16 right
from aiinfra.lab import time_limit
from puzzles.catalogue import PUZZLES
from puzzles.grid import launch_grids
from puzzles.judge import compiled, gpu, process
from puzzles.judge.explain import explain, place
from puzzles.judge.interpret import judge
from puzzles.judge.job import Job, Reply, Stage, out_of_time
from puzzles.judge.verdict import Finding
from puzzles.puzzle import Puzzle
from puzzles.rebuild import Rebuilt, load, piece_files
from puzzles.source import BadInput


class _Unloadable(Exception):
    """The learner's text does not make a kernel; carries the finding."""


@dataclass(frozen=True)
class _Task:
    """A job with its kernel rebuilt."""

    puzzle: Puzzle
    rebuilt: Rebuilt
    grids: list[tuple[int, ...]]
    seed: int
    printed: Callable[[], str]                    # what the kernel printed until now


def main() -> None:
    """The judge's process: answer jobs from stdin until it closes."""
    process.serve(work)


def work(stage: Stage, job: Job, folder: Path, printed: Callable[[], str]) -> Reply:
    """Do one stage of a job. `folder` takes the kernel's text; printed() is what it has printed until now."""
    try:
        return time_limit.limited(lambda: _STAGES[stage](_task(job, folder, printed)), seconds=job.seconds)
    except BadInput as error:
        finding = Finding("bad_input", str(error))
    except _Unloadable as error:
        finding = error.args[0]
    except time_limit.StillRunning as stopped:
        line, code = place(stopped, piece_files(job.text, folder)) or (None, "")
        finding = out_of_time(job.seconds, line, code)
    return Reply(findings=(finding,))


def _task(job: Job, folder: Path, printed: Callable[[], str]) -> _Task:
    puzzle = job.puzzle
    if not isinstance(puzzle, Puzzle):
        puzzle = PUZZLES[job.puzzle]
    rebuilt = _load(job, folder)
    grids = job.grids
    if not grids:
        grids = launch_grids(puzzle, rebuilt.namespace.get(f"grid_of_{puzzle.name}"), job.seed)
    return _Task(puzzle=puzzle, rebuilt=rebuilt, grids=list(grids), seed=job.seed, printed=printed)


def _load(job: Job, folder: Path) -> Rebuilt:
    try:
        return load(job.text, folder)
    except BadInput:
        raise
    except Exception as error:                    # the learner's own top-level code may raise anything
        raise _Unloadable(explain(error, piece_files(job.text, folder))) from error


def _interpret(task: _Task) -> Reply:
    verdict = judge(task.puzzle, task.rebuilt.kernel, task.rebuilt.files, task.seed, task.grids)
    return Reply(replace(verdict, printed=task.printed()))


def _compile(task: _Task) -> Reply:
    usages, findings = compiled.compile_all(task.puzzle, task.rebuilt.kernel, task.rebuilt.files)
    return Reply(usages, tuple(findings))


def _run_on_gpu(task: _Task) -> Reply:
    run, findings = gpu.run(task.puzzle, task.rebuilt.kernel, task.rebuilt.files, task.seed, task.grids[-1])
    return Reply(run, tuple(findings))


_STAGES: dict[Stage, Callable[[_Task], Reply]] = {
    "interpret": _interpret,
    "compile": _compile,
    "gpu": _run_on_gpu,
}
