"""The judge's process: answer jobs from the notebook, each with a learner's process of its own.

    notebook ──text──► fork a LearnerProcess: the learner's process      (the seed has not been read yet)
             ──job───► one stage: interpret.py | compiled.py | gpu.py, which ask the LearnerProcess
             ◄─Reply── then the LearnerProcess is closed, with all that it started

Importing this loads Triton, the specs and the judge, before the first fork. The learner's code never runs in
this process, so nothing of one check is left for the next. It ends when the notebook's end of its pipe
closes, also in the middle of a job.
"""

import faulthandler
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import aiinfra.kernels.lang                       # noqa: F401  Triton, loaded before the fork; bfloat16 right

from aiinfra.gpu import confine, process
from puzzles.catalogue import PUZZLES
from puzzles.grid import Grid, checked_grids, metas, own_grids
from puzzles.judge import compiled, gpu
from puzzles.judge.child import Learner
from puzzles.judge.interpret import Signature, judge
from puzzles.judge.job import FOLDER_PREFIX, Job, Reply, Stage
from puzzles.judge.runner import EndedEarly, LearnerProcess
from puzzles.judge.verdict import Finding
from puzzles.judge.wire import Channel, Interrupted, lists, texts
from puzzles.puzzle import Puzzle
from puzzles.source import BadInput, KernelText

_QUESTIONS = 0                                    # stdin
_LAST_SECONDS = 1.0                               # from the learner's alarm to faulthandler's


def main() -> None:
    """Answer jobs from stdin until it closes."""
    replies = process.replies()
    torch.set_num_threads(1)                      # a process with threads must not fork
    confine.adopt_orphans()
    questions = open(_QUESTIONS, "rb", buffering=0, closefd=False)
    try:
        while (asked := process.receive(questions)) is not None:
            process.send(replies, _answer(*asked, lambda: process.receive(questions)))
    except (Interrupted, BrokenPipeError):        # the notebook has gone
        pass
    finally:
        _remove_folder(Path(tempfile.gettempdir()))
    os._exit(0)                                   # at once: PyTorch's exit takes seconds on a busy machine


def _remove_folder(folder: Path) -> None:
    """What process.py made for this process, which may outlive the notebook; never anything else."""
    if folder.name.startswith(FOLDER_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)


def _answer(stage: Stage, text: KernelText, seconds: float, receive_job: Callable[[], Job]) -> Reply:
    """One stage of a job. The learner's process exists before the job is read, and is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="puzzle-", ignore_cleanup_errors=True) as folder:
        runner = LearnerProcess(text, seconds, Path(folder), serve_learner, _QUESTIONS, stage == "gpu")
        try:
            job = receive_job()
            reply = _judged(stage, _Task(job, runner, Path(folder)))
        finally:
            runner.close()
        return replace(reply, printed=runner.printed)


def serve_learner(text: KernelText, folder: Path, channel: Channel, seconds: float, stack: Path) -> None:
    """In the fork: what the learner's process does. A kernel that crashes, or that no alarm reaches, writes
    down where it is.
    """
    last_words = open(stack, "w")
    faulthandler.enable(last_words)
    faulthandler.dump_traceback_later(seconds + _LAST_SECONDS, exit=True, file=last_words)
    Learner(text, folder, channel, seconds).serve()
    sys.stdout.flush()


@dataclass(frozen=True)
class _Task:
    """A job, the learner's process, and a folder for files."""

    job: Job
    runner: LearnerProcess
    folder: Path

    @property
    def puzzle(self) -> Puzzle:
        if isinstance(self.job.puzzle, Puzzle):
            return self.job.puzzle
        return PUZZLES[self.job.puzzle]

    @property
    def grids(self) -> list[Grid]:
        """Of each case, the large one last. Raises BadInput, or EndedEarly if the learner's own function
        fails."""
        puzzle, seed = self.puzzle, self.job.seed
        if self.job.grids:
            return list(self.job.grids)
        if puzzle.grid is not None:
            return own_grids(puzzle, seed)
        sizes = metas(puzzle, seed)
        request = {"do": "grids", "name": puzzle.name, "metas": sizes}
        said = self.runner.ask(request, lambda answer, _: lists(answer, "grids", len(sizes)))
        return checked_grids(puzzle, list(map(_as_grid, said)), seed)


def _as_grid(said: object) -> object:
    """A tuple, as JSON has it."""
    return tuple(said) if isinstance(said, list) else said


def _signature(answer: dict, _: bytes) -> Signature:
    """What the learner's process says of its kernel."""
    return Signature(texts(answer, "parameters"), texts(answer, "constants"))


def _judged(stage: Stage, task: _Task) -> Reply:
    try:
        signature = task.runner.ask({"do": "load"}, _signature)
        return _STAGES[stage](task, signature)
    except BadInput as error:
        finding = Finding("bad_input", str(error))
    except EndedEarly as ended:
        finding = ended.finding
    return Reply(findings=(finding,))


def _interpret(task: _Task, signature: Signature) -> Reply:
    return Reply(judge(task.puzzle, task.runner, signature, task.job, task.grids))


def _compile(task: _Task, signature: Signature) -> Reply:
    usages, findings = compiled.compile_all(task.puzzle, task.runner, task.folder, task.job.seconds)
    return Reply(usages, tuple(findings))


def _run_on_gpu(task: _Task, signature: Signature) -> Reply:
    job = task.job
    run, findings = gpu.run(task.puzzle, task.runner, task.folder, job.seed, task.grids[-1], job.seconds)
    return Reply(run, tuple(findings))


_STAGES: dict[Stage, Callable[[_Task, Signature], Reply]] = {
    "interpret": _interpret,
    "compile": _compile,
    "gpu": _run_on_gpu,
}
