"""The checker that most puzzle sets use, so that notebook 09 can measure what it accepts.

    kernel ──► launch once, one seed ──► run the spec on the SAME tensors ──► allclose(rtol=atol=1e-3)

Each answer is launched once a shape, in Triton's plain interpreter. Kept is how loose a tolerance it
needs to be accepted; every stricter or laxer checker is then arithmetic on these records (`accepts`).
Nothing is watched, so a wrong kernel reads and writes where it likes. Therefore each one runs in a
process of its own (a fork of a warm one), and a crash or an endless loop counts as rejected.
"""

import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from aiinfra.gpu import process
from puzzles.catalogue import PUZZLES
from puzzles.grid import launch_grids
from puzzles.judge.launch import fresh_outputs, launch_arguments, lay_out, same_bits
from puzzles.puzzle import Case, Expected, Puzzle
from puzzles.rebuild import load
from puzzles.source import from_text
from puzzles.wrong import all_wrong, solution_text, wrong_text

_SECONDS = 30.0                       # time limit of one answer, all its shapes together
_END = "end"                          # last line of a fork that lived to the end
_HOPELESS = 0.3                       # no checker is as loose as this, so further shapes say nothing more
_NOT_ABOUT_VALUES = ("traffic", "wrong_program", "does_not_compile")


@dataclass(frozen=True)
class KnownAnswer:
    """One answer to a puzzle: the text that defines its kernel, and whether it is right."""

    puzzle: str
    what: str
    text: str
    right: bool


@dataclass(frozen=True)
class Outcome:
    """What one launch showed. Tolerances t are the least that satisfy |z - spec| <= t + t·|spec|."""

    after: float                      # the spec runs after the kernel, on tensors that it may have changed
    before: float                     # the spec runs first, on copies
    unchanged: bool                   # the inputs are bit for bit what they were


_REJECTED = Outcome(after=math.inf, before=math.inf, unchanged=True)        # it raised, crashed or hung


def known_answers(puzzles: Sequence[str] | None = None) -> list[KnownAnswer]:
    """The repository's right answers and all wrong ones whose VALUES or accesses are wrong.

    Left out: answers that are right but load too much, or let the wrong program compute.
    """
    names = list(PUZZLES) if puzzles is None else puzzles
    known = []
    for name in names:
        text = solution_text(PUZZLES[name].sheet)
        known.append(KnownAnswer(puzzle=name, what="solution", text=text, right=True))
    for answer in all_wrong():
        if answer.puzzle in names and answer.expect not in _NOT_ABOUT_VALUES:
            text = wrong_text(answer, PUZZLES[answer.puzzle].sheet)
            known.append(KnownAnswer(puzzle=answer.puzzle, what=answer.what, text=text, right=False))
    return known


def survey(answers: Sequence[KnownAnswer], seed: int = 0, processes: int = 2) -> list[list[Outcome]]:
    """Launch each answer on the shapes of its puzzle. Returns a list of outcomes for each answer.

    The list ends early with an outcome that no checker accepts: far off, or the kernel raised, crashed or
    ran out of time. Raises RuntimeError if a surveying process itself fails.
    """
    with ThreadPoolExecutor(processes) as pool:
        parts = list(pool.map(lambda lane: _survey_part(answers[lane::processes], seed), range(processes)))
    return [parts[i % processes][i // processes] for i in range(len(answers))]


def accepts(outcomes: Sequence[Outcome], shapes: int, tolerance: float = 1e-3,
            spec_first: bool = False) -> bool:
    """Whether a checker with this many shapes and this tolerance lets an answer pass.

    `spec_first` also requires the inputs to be unchanged. `shapes` beyond those of the puzzle count as all.
    """
    seen = outcomes[:shapes]
    if spec_first:
        return all(one.before <= tolerance and one.unchanged for one in seen)
    return all(one.after <= tolerance for one in seen)


# --- one process for a part of the answers -------------------------------------------------------

def _survey_part(answers: Sequence[KnownAnswer], seed: int) -> list[list[Outcome]]:
    try:
        return process.call(_survey_here, answers, seed, interpret=True)
    except process.ChildFailed as failed:
        raise RuntimeError(f"the survey stopped with exit code {failed.exit_code}: {failed}") from None


def _survey_here(answers: Sequence[KnownAnswer], seed: int) -> list[list[Outcome]]:
    """In a process that interprets its kernels: a fork for each answer."""
    torch.set_num_threads(1)                             # a process with threads must not fork
    import_module("aiinfra.kernels.lang")                # Triton, loaded once, before the forks
    with tempfile.TemporaryDirectory() as folder:
        return [_in_fork(answer, seed, Path(folder)) for answer in answers]


def _in_fork(answer: KnownAnswer, seed: int, folder: Path) -> list[Outcome]:
    """The outcomes of one answer, from a copy of this process that may die."""
    ended = process.in_fork(lambda pipe: _launch_all(answer, seed, folder, pipe), _SECONDS)
    *lines, last = ended.output.decode().splitlines() or [""]
    if last == _END:
        return [Outcome(**json.loads(line)) for line in lines]
    return [*(Outcome(**json.loads(line)) for line in [*lines, last] if line), _REJECTED]


def _launch_all(answer: KnownAnswer, seed: int, folder: Path, pipe: int) -> None:
    """Launch on shape after shape; each outcome is in the pipe before the next launch can crash."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)                      # tracebacks and NumPy's warnings: not this page's subject
    puzzle = PUZZLES[answer.puzzle]
    rebuilt = load(from_text(answer.text, answer.puzzle), folder)
    grids = launch_grids(puzzle, rebuilt.namespace.get(f"grid_of_{puzzle.name}"), seed)
    for case, grid in zip(puzzle.cases_of(seed), grids):
        seen = _launch(puzzle, case, rebuilt.kernel, grid, seed)
        _write_line(pipe, json.dumps(asdict(seen)))
        if min(seen.after, seen.before) > _HOPELESS:
            break
    _write_line(pipe, _END)


def _write_line(pipe: int, text: str) -> None:
    os.write(pipe, f"{text}\n".encode())


def _launch(puzzle: Puzzle, case: Case, kernel: Any, grid: tuple[int, ...], seed: int) -> Outcome:
    """One shape. The output starts as noise, as `torch.empty` may."""
    inputs = lay_out(puzzle, case, puzzle.draw(case, seed))
    first = puzzle.solve(inputs, case)
    outputs = fresh_outputs(puzzle, case, inputs)
    tensors = {name: tensor.clone() for name, tensor in (inputs | outputs).items()}
    for name in outputs:
        _fill_with_noise(tensors[name], seed)
    kernel[grid](**launch_arguments(puzzle, case, tensors))
    now = dict(inputs)                                   # an input that is changed in place is no mistake
    for name in set(inputs) - set(puzzle.outputs):
        now[name] = tensors[name]
    unchanged = all(same_bits(now[name], inputs[name]) for name in inputs)
    later = first if unchanged else puzzle.solve(now, case)
    return Outcome(after=_tolerance(tensors, later), before=_tolerance(tensors, first), unchanged=unchanged)


def _fill_with_noise(tensor: torch.Tensor, seed: int) -> None:
    if tensor.is_floating_point():
        rng = torch.Generator().manual_seed(seed)
        tensor.copy_(torch.rand(tensor.shape, generator=rng) - 0.5)


def _tolerance(tensors: Mapping[str, torch.Tensor], expected: Mapping[str, Expected]) -> float:
    """The least t with |z - spec| <= t + t·|spec| everywhere; infinity if z holds NaN."""
    worst = 0.0
    for name, one in expected.items():
        got, want = tensors[name].double(), one.value.double()
        if one.written is not None:
            got, want = got[one.written], want[one.written]
        needed = (got - want).abs() / (1 + want.abs())
        needed = needed.where(got != want, got.new_zeros(()))           # equal infinities are equal
        if needed.numel():
            worst = max(worst, float(needed.nan_to_num(nan=math.inf).max()))
    return worst
