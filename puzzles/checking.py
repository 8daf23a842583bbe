"""check(): one kernel, one puzzle, one verdict. It never raises for a wrong kernel and never hangs.

kernel ─► its source ─► worker: interpreted, watched ─► (passed) compiled for GPUs ─► GPU run ─► board
"""

import functools
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from aiinfra.environment import triton_interpreted
from puzzles import board
from puzzles.catalogue import PUZZLES, find
from puzzles.grid import launch_grids
from puzzles.judge.verdict import Finding, Verdict, rejected
from puzzles.judge.worker import Job, Worker, shared_worker
from puzzles.puzzle import Puzzle
from puzzles.source import BadInput, Source, from_file, from_kernel, from_text, functions

_COMPILER_SECONDS = 120.0         # a slow machine's compiler is not the learner's fault


def check(name: str, kernel: Any, grid: Any = None, *, seconds: float = 20.0, seed: int | None = None) -> Verdict:
    """Judge a @triton.jit kernel; a notebook shows the verdict if this is a cell's last line.

    `grid` only for the puzzles that leave it to you. `seconds` limits each stage. Inputs are fresh at
    every call; pass the `seed` of an earlier verdict to see its inputs again. A solved puzzle is
    recorded on the board. Whatever is wrong with kernel, grid or name comes back as a verdict, too.
    """
    try:
        puzzle = find(name)
        source = from_kernel(kernel)
        _require_usable(kernel)
        grids = tuple(launch_grids(puzzle, grid))
    except BadInput as error:
        return rejected(str(name), Finding("bad_input", str(error)))
    return _record(judge_source(puzzle, source, seconds=seconds, seed=seed, grids=grids))


def check_file(path: str | Path, name: str | None = None, *, seconds: float = 20.0) -> list[Verdict]:
    """Judge the answers in a .py or .ipynb file: functions named like puzzles, or only `name`.

    Where a puzzle leaves the grid open, the file defines it as a function `grid_of_<name>`. Raises
    BadInput for a file that cannot be read or holds no answer.
    """
    path = Path(path)
    if path.suffix not in (".py", ".ipynb") or not path.is_file():
        raise BadInput(f"{path} is not a .py or .ipynb file that exists.")
    text = from_file(path)
    found = functions(text)
    wanted = [find(name).name] if name else [n for n in found if n in PUZZLES]
    missing = [n for n in wanted if n not in found]
    if missing or not wanted:
        raise BadInput(
            f"{path} defines no function " + (f"{missing[0]!r}." if missing else "that is named like a puzzle.")
        )
    return [_record(judge_source(PUZZLES[n], from_text(text, n), seconds=seconds)) for n in wanted]


def judge_source(puzzle: Puzzle, source: Source, *, seconds: float = 20.0, seed: int | None = None,
                 grids: tuple[tuple[int, ...], ...] | None = None, full: bool = True,
                 workers: tuple[Worker, Worker] | None = None) -> Verdict:
    """Interpret; if that passes and `full`, compile for GPUs and run on one. Records nothing."""
    interpreter, compiler = workers or (shared_worker(True), shared_worker(False))
    known = PUZZLES.get(puzzle.name) is puzzle
    job = Job(
        "interpret", puzzle.name if known else puzzle, source, seconds, fresh_seed() if seed is None else seed, grids
    )
    verdict = interpreter.run(job)
    if not (verdict.passed and full):
        return verdict
    for stage, figure in (("compile", "compiled"), ("gpu", "gpu")):
        result = compiler.run(replace(job, do=stage, seconds=max(seconds, _COMPILER_SECONDS)))
        if isinstance(result, Verdict):                      # stopped from outside, or crashed
            return replace(result, cases=verdict.cases, traffic=verdict.traffic)
        figures, findings = result
        verdict = replace(verdict, **{figure: tuple(figures or ()) if figure == "compiled" else figures})
        if findings:
            return replace(verdict, status="failed", findings=tuple(findings))
    return verdict


def fresh_seed() -> int:
    """A seed from the system, so that no two checks see the same inputs; torch's own state is left alone."""
    return torch.Generator().seed() % 1_000_000


def _record(verdict: Verdict) -> Verdict:
    """Keep it on the board; a board that cannot be written is said, not raised."""
    trouble = board.record(verdict) if verdict.status != "not solved yet" else ""
    return replace(verdict, printed=f"{verdict.printed}{trouble}") if trouble else verdict


def _require_usable(kernel: Any) -> None:
    """On a machine without a GPU, a kernel made before TRITON_INTERPRET=1 can neither run nor be tried out."""
    compiled = type(kernel).__name__ == "JITFunction"
    if not torch.cuda.is_available() and (compiled or _language_compiled()):
        now = "is set now, but was not" if triton_interpreted() else "is not set"
        raise BadInput(
            f"TRITON_INTERPRET=1 {now} when Triton was imported, so `{kernel.fn.__name__}` was made for a GPU "
            "and this machine has none: set it in the first cell, before `import triton`, and restart the kernel."
        )


@functools.cache
def _language_compiled() -> bool:
    """Whether tl.sum and its like were made for a GPU when Triton was imported."""
    return type(sys.modules["triton.language"].sum).__name__ == "JITFunction"
