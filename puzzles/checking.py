"""check(): one kernel, one puzzle, one verdict. It never raises for a wrong kernel and never hangs.

kernel ─► its text ─► worker: interpreted, watched ─► (passed) compiled for GPUs ─► GPU run ─► board
"""

import functools
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from aiinfra.environment import triton_interpreted
from aiinfra.lab import time_limit
from puzzles import board
from puzzles.answer_file import definitions, functions
from puzzles.catalogue import PUZZLES, find
from puzzles.grid import Grid, launch_grids
from puzzles.judge.job import Job, Rejected
from puzzles.judge.process import Worker, shared_worker
from puzzles.judge.reach import reaching
from puzzles.judge.verdict import Finding, Verdict, rejected
from puzzles.puzzle import Puzzle
from puzzles.render import ShownVerdict, show
from puzzles.source import BadInput, KernelText, from_kernel, from_text

_COMPILER_SECONDS = 120.0         # a slow machine's compiler is not the learner's fault


class Workers(NamedTuple):
    """The two processes of the judge: one interprets kernels, the other compiles them."""

    interpreter: Worker
    compiler: Worker


def check(name: str, kernel: Any, grid: Any = None, *, seconds: float = 20.0,
          seed: int | None = None) -> ShownVerdict:
    """Judge a @triton.jit kernel; a notebook shows the verdict if this is a cell's last line.

    `grid` only for the puzzles that leave it to you. `seconds` limits each stage. Inputs are fresh at
    every call; pass the `seed` of an earlier verdict to see its inputs again. A solved puzzle is
    recorded on the board. Whatever is wrong with kernel, grid or name comes back as a verdict, too.
    """
    try:
        puzzle = find(name)
        text = from_kernel(kernel)
        _require_usable(kernel)
        seed = fresh_seed() if seed is None else seed
        grids = tuple(time_limit.limited(lambda: launch_grids(puzzle, grid, seed), seconds=seconds))
    except BadInput as error:
        return show(rejected(str(name), [Finding("bad_input", str(error))]))
    except time_limit.StillRunning:
        message = f"your grid function was still running after {seconds:g} s and was stopped"
        return show(rejected(str(name), [Finding("time_limit", message, "its loop: does it always end?")]))
    return _record(judge_text(puzzle, text, seconds=seconds, seed=seed, grids=grids))


def check_file(path: str | Path, name: str | None = None, *, seconds: float = 20.0) -> list[ShownVerdict]:
    """Judge the answers in a .py or .ipynb file: functions named like puzzles, or only `name`.

    Where a puzzle leaves the grid open, the file defines it as a function `grid_of_<name>`. Raises
    BadInput for a file that cannot be read or holds no answer.
    """
    path = Path(path)
    if path.suffix not in (".py", ".ipynb") or not path.is_file():
        raise BadInput(f"{path} is not a .py or .ipynb file that exists.")
    text = definitions(path)
    verdicts = []
    for answer in _answers(text, path, name):
        verdict = judge_text(PUZZLES[answer], from_text(text, answer), seconds=seconds)
        verdicts.append(_record(verdict))
    return verdicts


def _answers(text: str, path: Path, name: str | None) -> list[str]:
    """The puzzles that a file answers. Raises BadInput if it does not answer `name`, or none at all."""
    found = functions(text)
    if name is None:
        wanted = [one for one in found if one in PUZZLES]
        what = "that is named like a puzzle."
    else:
        asked = find(name).name
        wanted = [asked] if asked in found else []
        what = f"{asked!r}."
    if not wanted:
        raise BadInput(f"{path} defines no function {what}")
    return wanted


def judge_text(puzzle: Puzzle, text: KernelText, *, seconds: float = 20.0, seed: int | None = None,
               grids: tuple[Grid, ...] | None = None, full: bool = True,
               workers: Workers | None = None) -> ShownVerdict:
    """Interpret; if that passes and `full`, compile for GPUs and run on one. Records nothing."""
    if workers is None:
        workers = Workers(shared_worker(True), shared_worker(False))
    if seed is None:
        seed = fresh_seed()
    known = puzzle.name in PUZZLES and PUZZLES[puzzle.name] is puzzle
    job = Job(
        puzzle=puzzle.name if known else puzzle,         # a name travels faster
        text=text,
        seconds=seconds,
        seed=seed,
        grids=grids,
    )
    if found := reaching(text):
        return show(rejected(puzzle.name, [found], seed=seed))
    verdict = workers.interpreter.interpret(job)
    if verdict.passed and full:
        verdict = _on_gpus(verdict, job, workers.compiler)
    return show(verdict)


def _on_gpus(verdict: Verdict, job: Job, compiler: Worker) -> Verdict:
    """The verdict with the figures of the compilers, and of the GPU if there is one; it may fail there."""
    job = replace(job, seconds=max(job.seconds, _COMPILER_SECONDS))
    try:
        verdict = replace(verdict, compiled=tuple(compiler.compile(job)))
        return replace(verdict, gpu=compiler.run_on_gpu(job))
    except Rejected as wrong:
        compiled = verdict.compiled or wrong.compiled
        return replace(verdict, status="failed", findings=wrong.findings, compiled=compiled)


def fresh_seed() -> int:
    """A seed from the system, so that no two checks see the same inputs; torch's own state is left alone."""
    return torch.Generator().seed() % 1_000_000


def _record(verdict: ShownVerdict) -> ShownVerdict:
    """Keep it on the board; a board that cannot be written is said, not raised."""
    if verdict.status == "not solved yet":
        return verdict
    trouble = board.record(verdict)
    return replace(verdict, printed=verdict.printed + trouble)


def _require_usable(kernel: Any) -> None:
    """On a machine without a GPU, a kernel made before TRITON_INTERPRET=1 can neither run nor be tried out.
    """
    if torch.cuda.is_available():
        return
    if type(kernel).__name__ == "JITFunction" or _language_compiled():
        now = "is not set"
        if triton_interpreted():
            now = "is set now, but was not"
        raise BadInput(
            f"TRITON_INTERPRET=1 {now} when Triton was imported, so `{kernel.fn.__name__}` was made "
            "for a GPU and this machine has none: set it in the first cell, before `import triton`, "
            "and restart the kernel."
        )


@functools.cache
def _language_compiled() -> bool:
    """Whether tl.sum and its like were made for a GPU when Triton was imported."""
    return type(sys.modules["triton.language"].sum).__name__ == "JITFunction"
