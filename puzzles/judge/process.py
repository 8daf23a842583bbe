"""Another process, with a time limit: an endless loop or a crash ends there, not in the notebook.

    notebook ──job──► worker (torch and Triton loaded, idle) ──fork──► child.py: load, judge
             ◄─reply─        waits at most `seconds`         ◄─pipe──  then gone

The worker never runs a learner's kernel itself, so a check costs a fork (milliseconds) and nothing
of one check is left for the next. It ends when the notebook's end of its pipe closes. At the limit
an alarm stops the fork at the line it was at; if it does not react (inside NumPy or the compiler),
it is stopped from outside a little later.
"""

import atexit
import faulthandler
import functools
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import torch

from aiinfra.gpu import process
from puzzles.judge.job import Job, Rejected, Reply, Stage, out_of_time
from puzzles.judge.verdict import Finding, GpuRun, ResourceUsage, Verdict, rejected
from puzzles.source import KernelText

# By name: whoever imports it loads Triton, and this file is imported in the notebook, too.
_CHILD = "puzzles.judge.child:main"
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_GRACE_SECONDS = 2.0


# --- the notebook's side -------------------------------------------------------------------------

class Worker:
    """A warm process that judges kernels, interpreted or compiled. Close it, or leave that to the exit.

    Each call does one stage of a job. Raises RuntimeError if the worker itself breaks, which no kernel can
    bring about.
    """

    def __init__(self, interpret: bool, path: tuple[str, ...] = ()):
        """`path`: where the modules of its puzzles are found, beside this project's."""
        self._interpret = interpret
        self._path = path
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None

    def interpret(self, job: Job) -> Verdict:
        """Run the kernel on all cases, watched. A kernel that crashed or ran out of time is a Verdict, too.
        """
        reply = self._ask("interpret", job)
        if reply.findings:
            return rejected(job.name, reply.findings, seed=job.seed)
        return reply.result

    def compile(self, job: Job) -> list[ResourceUsage]:
        """Compile the kernel for each kind of GPU. Raises Rejected if one compiler refuses it."""
        reply = self._ask("compile", job)
        if reply.findings:
            raise Rejected(reply.findings, tuple(reply.result or ()))
        return reply.result

    def run_on_gpu(self, job: Job) -> GpuRun | None:
        """Run and time the kernel on a GPU; None where there is none. Raises Rejected if it is wrong there.
        """
        reply = self._ask("gpu", job)
        if reply.findings:
            raise Rejected(reply.findings)
        return reply.result

    @property
    def running(self) -> subprocess.Popen:
        """The process, started now if there is none that lives."""
        if self._process is None or self._process.poll() is not None:
            self._process = process.start(_CHILD, interpret=self._interpret, path=self._path, **_ONE_THREAD)
        return self._process

    def close(self) -> None:
        """End the process and whatever it runs."""
        if self._process is None:
            return
        ending = self._process
        self._process = None
        try:
            os.killpg(ending.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass                             # it has ended by itself
        ending.wait()
        ending.stdin.close()
        ending.stdout.close()

    def _ask(self, stage: Stage, job: Job) -> Reply:
        with self._lock:
            try:
                worker = self.running
                process.send(worker.stdin, (stage, job))
                reply = process.receive(worker.stdout)
            except BaseException:            # an interrupt too: a half-read reply would answer the next check
                self.close()
                raise
            if reply is None:
                self.close()
                raise RuntimeError("the judge's own process ended without an answer; "
                                   "its last words are above")
            return reply


@functools.cache
def _shared(pid: int, interpret: bool) -> Worker:
    worker = Worker(interpret)
    atexit.register(worker.close)
    return worker


def shared_worker(interpret: bool) -> Worker:
    """This process's own worker, started at the first use."""
    return _shared(os.getpid(), interpret)       # by process: a forked copy must not share the pipe


# --- the worker's side ---------------------------------------------------------------------------

# What child.py does with (stage, job, folder for its files, what was printed until now).
Work = Callable[[Stage, Job, Path, Callable[[], str]], Reply]


def serve(work: Work) -> None:
    """Answer jobs from stdin until it closes, each in a fork. What is slow to import is imported before."""
    pipe = process.replies()
    torch.set_num_threads(1)                     # a process with threads must not fork
    while (question := process.receive(sys.stdin.buffer)) is not None:
        stage, job = question
        with tempfile.TemporaryDirectory(prefix="puzzle-") as folder:
            process.send(pipe, _in_fork(work, stage, job, Path(folder)))


def _in_fork(work: Work, stage: Stage, job: Job, folder: Path) -> Reply:
    def judge(pipe: int) -> None:
        _redirect(folder / "printed")
        _note_the_line(folder / "stack", job.seconds + _GRACE_SECONDS / 2)
        reply = work(stage, job, folder, lambda: _printed(folder))
        with os.fdopen(pipe, "wb") as replies:
            pickle.dump(reply, replies)

    ended = process.in_fork(judge, job.seconds + _GRACE_SECONDS)
    if ended.in_time and ended.output:
        return pickle.loads(ended.output)
    return Reply(findings=(_death(job, folder, ended.exit_code),))


def _redirect(file: Path) -> None:
    """What is printed, here or by a library, goes to a file."""
    printed = os.open(file, os.O_RDWR | os.O_CREAT)
    os.dup2(printed, 1)
    os.dup2(printed, 2)


def _note_the_line(file: Path, seconds: float) -> None:
    """A last resort for a kernel that no alarm reaches: write down where it is, and end."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=open(file, "w"))


def _printed(folder: Path) -> str:
    sys.stdout.flush()
    return _read(folder / "printed")


def _read(file: Path) -> str:
    if not file.exists():
        return ""
    return file.read_text(errors="replace")


def _death(job: Job, folder: Path, exit_code: int) -> Finding:
    """The fork sent no reply: it ran out of time, or something stopped it."""
    stack = _read(folder / "stack")
    line, code = _where(stack, job.text, folder)
    if "Timeout" in stack or exit_code == -signal.SIGKILL:
        return out_of_time(job.seconds, line, code)
    cause = f"exit code {exit_code}"
    if printed := _read(folder / "printed").strip():
        cause = printed.splitlines()[-1]
    message = f"the process that ran the kernel ended: {cause}"
    return Finding("crash", message, line=line, code=code)


def _where(stack: str, text: KernelText, folder: Path) -> tuple[int | None, str]:
    """The innermost line of the learner's text in a faulthandler dump (innermost first)."""
    name = re.escape(str(folder))
    found = re.search(rf'File "{name}/piece(\d+)\.py", line (\d+)', stack)
    if not found:
        return None, ""
    piece, line = int(found[1]), int(found[2])
    return line, text.pieces[piece].line(line)
