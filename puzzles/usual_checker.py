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
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_SECONDS = 30.0                       # time limit of one answer, all its shapes together
_END = "end"                          # last line of a child that lived to the end
_HOPELESS = 0.3                       # no checker is as loose as this, so further shapes say nothing more


@dataclass(frozen=True)
class Answer:
    """One answer to a puzzle: the text that defines its kernel, and whether it is right."""

    puzzle: str
    what: str
    text: str
    right: bool


@dataclass(frozen=True)
class Launch:
    """What one launch showed. Tolerances t are the least that satisfy |z - spec| <= t + t·|spec|."""

    after: float                      # the spec runs after the kernel, on the tensors that it may have changed
    before: float                     # the spec runs first, on copies
    unchanged: bool                   # the inputs are bit for bit what they were


def known_answers(puzzles: Sequence[str] | None = None) -> list[Answer]:
    """The repository's right answers and all wrong ones whose VALUES or accesses are wrong.

    Left out: answers that are right but load too much, or let the wrong program compute.
    """
    from puzzles.catalogue import PUZZLES
    from puzzles.wrong import all_wrong, solution_text, wrong_text
    names = PUZZLES if puzzles is None else puzzles
    right = [Answer(name, "solution", solution_text(PUZZLES[name].sheet), True) for name in names]
    wrong = [Answer(a.puzzle, a.what, wrong_text(a, PUZZLES[a.puzzle].sheet), False) for a in all_wrong()
             if a.puzzle in names and a.expect not in ("traffic", "wrong_program", "does_not_compile")]
    return right + wrong


def survey(answers: Sequence[Answer], seed: int = 0, processes: int = 2) -> list[list[Launch]]:
    """Launch each answer on the shapes of its puzzle. Returns a list of launches for each answer.

    The list ends early with a launch that no checker accepts: far off, or the kernel raised, crashed or
    ran out of time. Raises RuntimeError if a surveying process itself fails.
    """
    with ThreadPoolExecutor(processes) as pool:
        parts = list(pool.map(lambda k: _survey_part(answers[k::processes], seed), range(processes)))
    return [parts[i % processes][i // processes] for i in range(len(answers))]


def accepts(launches: Sequence[Launch], shapes: int, tolerance: float = 1e-3, spec_first: bool = False) -> bool:
    """Whether a checker with this many shapes and this tolerance lets an answer pass.

    `spec_first` also requires the inputs to be unchanged. `shapes` beyond those of the puzzle count as all.
    """
    seen = launches[:shapes]
    if spec_first:
        return all(one.before <= tolerance and one.unchanged for one in seen)
    return all(one.after <= tolerance for one in seen)


# --- one process for a part of the answers -------------------------------------------------------

def _survey_part(answers: Sequence[Answer], seed: int) -> list[list[Launch]]:
    job = json.dumps({"seed": seed, "answers": [asdict(answer) for answer in answers]})
    command = ["env", "TRITON_INTERPRET=1", sys.executable, "-m", "puzzles.usual_checker"]
    done = subprocess.run(command, input=job, cwd=_ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the survey stopped with exit code {done.returncode}: {done.stderr.strip()[-300:]}")
    return [[Launch(**one) for one in launches] for launches in json.loads(done.stdout)]


def _main() -> None:
    import torch
    torch.set_num_threads(1)                             # a process with threads must not fork
    import triton                                        # noqa: F401  loaded once, before the forks
    import puzzles.catalogue                             # noqa: F401
    job = json.loads(sys.stdin.read())
    with tempfile.TemporaryDirectory() as folder:
        found = [_in_child(Answer(**one), job["seed"], Path(folder)) for one in job["answers"]]
    sys.stdout.write(json.dumps(found))


def _in_child(answer: Answer, seed: int, folder: Path) -> list[dict]:
    """The launches of one answer as plain dicts, from a child that may die."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        try:
            _launch_all(answer, seed, folder, write_end)
        finally:
            os._exit(0)                                  # whatever it raised: its records so far are in the pipe
    os.close(write_end)
    lines = _read_lines(read_end, time.monotonic() + _SECONDS)
    os.close(read_end)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    ended = bool(lines) and lines[-1] == _END
    found = [json.loads(line) for line in lines[:len(lines) - ended]]
    return found if ended else [*found, asdict(Launch(math.inf, math.inf, True))]


def _read_lines(fd: int, deadline: float) -> list[str]:
    text = b""
    while select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0] and (chunk := os.read(fd, 1 << 16)):
        text += chunk
    return text.decode().splitlines()


def _launch_all(answer: Answer, seed: int, folder: Path, pipe: int) -> None:
    from puzzles.catalogue import PUZZLES
    from puzzles.grid import launch_grids
    from puzzles.source import from_text, load
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)                                  # tracebacks and NumPy's warnings: not this page's subject
    puzzle = PUZZLES[answer.puzzle]
    kernel, _, space = load(from_text(answer.text, answer.puzzle), folder)
    grids = launch_grids(puzzle, space.get(f"grid_of_{puzzle.name}"))
    for case, grid in zip(puzzle.cases, grids):
        seen = _launch(puzzle, case, kernel, grid, seed)
        os.write(pipe, f"{json.dumps(asdict(seen))}\n".encode())
        if min(seen.after, seen.before) > _HOPELESS:
            break
    os.write(pipe, f"{_END}\n".encode())


def _launch(puzzle, case, kernel, grid: tuple[int, ...], seed: int) -> Launch:
    """One shape. The output starts as noise, as `torch.empty` may."""
    import torch
    from puzzles.judge.interpret import fresh_outputs, launch_arguments, lay_out, same_bits
    inputs = lay_out(puzzle, case, puzzle.draw(case, seed))
    first = puzzle.solve(inputs, case)
    tensors = {name: tensor.clone() for name, tensor in {**inputs, **fresh_outputs(puzzle, case, inputs)}.items()}
    for name in set(puzzle.outputs) - set(inputs):
        if tensors[name].is_floating_point():
            tensors[name].copy_(torch.rand(tensors[name].shape, generator=torch.Generator().manual_seed(seed)) - 0.5)
    kernel[grid](**launch_arguments(puzzle, case, tensors))
    now = {name: inputs[name] if name in puzzle.outputs else tensors[name] for name in inputs}
    unchanged = all(same_bits(now[name], inputs[name]) for name in inputs)
    later = first if unchanged else puzzle.solve(now, case)
    return Launch(_tolerance(tensors, later), _tolerance(tensors, first), unchanged)


def _tolerance(tensors, answers) -> float:
    """The least t with |z - spec| <= t + t·|spec| everywhere; infinity if z holds NaN."""
    worst = 0.0
    for name, answer in answers.items():
        got, want = tensors[name].double(), answer.value.double()
        if answer.written is not None:
            got, want = got[answer.written], want[answer.written]
        excess = ((got - want).abs() / (1 + want.abs())).where(got != want, got.new_zeros(()))
        worst = max(worst, float(excess.nan_to_num(nan=math.inf).max())) if excess.numel() else worst
    return worst


if __name__ == "__main__":
    _main()
