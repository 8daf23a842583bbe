"""Another process, with a time limit: an endless loop or a crash ends there, not in the notebook.

    notebook ──job──► worker (torch and Triton loaded, idle) ──fork──► child: load, judge
             ◄─reply─        waits at most `seconds`         ◄─pipe──  then gone

The worker never runs a learner's kernel itself, so a check costs a fork (milliseconds) and nothing
of one check is left for the next. It ends when the notebook's end of its pipe closes. At the limit
an alarm raises OutOfTime in the child, at the line it was at; if it does not react (inside NumPy or
the compiler), it is stopped from outside a little later.
"""

import atexit
import faulthandler
import functools
import os
import pickle
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from puzzles.judge.verdict import Finding, rejected
from puzzles.source import Source

_ROOT = Path(__file__).parents[2]
_START = "import sys; sys.path[:0] = {path!r}; from puzzles.judge.worker import serve; serve({interpret})"
_GRACE_SECONDS = 2.0
_MOST_PRINTED = 2000


@dataclass(frozen=True)
class Job:
    """One request: what to do with which kernel. `do` is "interpret", "compile" or "gpu"."""

    do: str
    puzzle: Any                              # a name, or a Puzzle of a test's own
    source: Source
    seconds: float = 20.0
    seed: int = 0
    grids: tuple[tuple[int, ...], ...] | None = None


class OutOfTime(BaseException):
    """The time limit, raised inside the child; no `except Exception` on the way can hold it."""


def time_limit(seconds: float, line: int | None, code: str) -> Finding:
    return Finding("time_limit", f"the kernel was still running after {seconds:g} s and was stopped",
                   "the loop around this line: does it always end?", line, code)


# --- the notebook's side -------------------------------------------------------------------------

class Worker:
    """A warm process that judges kernels, interpreted or compiled. Close it, or leave that to the exit."""

    def __init__(self, interpret: bool, path: tuple[str, ...] = ()):
        self._interpret, self._path = interpret, (str(_ROOT), *path)       # `path`: where its modules are found
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None

    def run(self, job: Job) -> Any:
        """Do a job; returns what the job returns, or a Verdict if it ran out of time or crashed.

        Raises RuntimeError if the worker itself breaks, which no kernel can bring about.
        """
        with self._lock:
            try:
                _send(self._running().stdin, job)
                reply = _receive(self._process.stdout)
            except BaseException:            # an interrupt too: a half-read reply would answer the next check
                self.close()
                raise
            if reply is None:
                self.close()
                raise RuntimeError("the judge's own process ended without an answer; its last words are above")
            return reply

    def close(self) -> None:
        """End the process and whatever it runs."""
        if self._process is None:
            return
        process, self._process = self._process, None
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass                             # it has ended by itself
        process.wait()
        process.stdin.close()
        process.stdout.close()

    def _running(self) -> subprocess.Popen:
        if self._process is None or self._process.poll() is not None:
            code = _START.format(path=list(self._path), interpret=self._interpret)
            self._process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE,
                                             stdout=subprocess.PIPE, start_new_session=True)
        return self._process


@functools.cache
def _shared(pid: int, interpret: bool) -> Worker:
    worker = Worker(interpret)
    atexit.register(worker.close)
    return worker


def shared_worker(interpret: bool) -> Worker:
    """This process's own worker, started at the first use."""
    return _shared(os.getpid(), interpret)       # by process: a forked copy must not share the pipe


# --- the worker's side ---------------------------------------------------------------------------

def serve(interpret: bool) -> None:
    """Answer jobs from stdin until it closes. Everything slow to import is imported first."""
    os.environ.pop("TRITON_INTERPRET", None)
    os.environ.update({"TRITON_INTERPRET": "1"} if interpret else {})
    os.environ.update({name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")})
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)                                # a stray print must not end up among the replies
    import torch
    torch.set_num_threads(1)                     # a process with threads must not fork
    import puzzles.judge.work                    # noqa: F401  Triton, the specs and the judge
    while (job := _receive(sys.stdin.buffer)) is not None:
        with tempfile.TemporaryDirectory(prefix="puzzle-") as folder:
            _send(replies, _in_child(job, Path(folder)))


def _in_child(job: Job, folder: Path) -> Any:
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        _child(job, folder, write_end)
    os.close(write_end)
    data = _read_all(read_end, time.monotonic() + job.seconds + _GRACE_SECONDS)
    os.close(read_end)
    if data is None:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return pickle.loads(data) if data else _died(job, folder, os.waitstatus_to_exitcode(status))


def _child(job: Job, folder: Path, write_end: int) -> None:
    """Judge, send the reply, and leave without running any exit handler of the worker."""
    try:
        printed = os.open(folder / "printed", os.O_RDWR | os.O_CREAT)
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        faulthandler.dump_traceback_later(job.seconds + _GRACE_SECONDS / 2, exit=True, file=open(folder / "stack", "w"))
        signal.signal(signal.SIGALRM, _out_of_time)
        signal.setitimer(signal.ITIMER_REAL, job.seconds)
        from puzzles.judge.work import work
        reply = work(job, folder, lambda: _printed(folder))
        with os.fdopen(write_end, "wb") as pipe:
            pickle.dump(reply, pipe)
    finally:
        os._exit(0)


def _out_of_time(*_: Any) -> None:
    raise OutOfTime


def _printed(folder: Path) -> str:
    sys.stdout.flush()
    return (folder / "printed").read_text(errors="replace")[-_MOST_PRINTED:]


def _read_all(fd: int, deadline: float) -> bytes | None:
    """Everything until the other end closes; None if the deadline comes first."""
    chunks = []
    while select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
        chunk = os.read(fd, 1 << 16)
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)
    return None


def _died(job: Job, folder: Path, exit_code: int) -> Any:
    """The child sent no reply: it ran out of time, or something stopped it."""
    stack = (folder / "stack").read_text() if (folder / "stack").exists() else ""
    name = getattr(job.puzzle, "name", job.puzzle)
    line, code = _where(stack, job.source, folder)
    if "Timeout" in stack or exit_code == -signal.SIGKILL:
        return rejected(name, time_limit(job.seconds, line, code), seed=job.seed)
    printed = (
        (folder / "printed").read_text(errors="replace").strip().splitlines() if (folder / "printed").exists() else []
    )
    cause = printed[-1] if printed else f"exit code {exit_code}"
    return rejected(
        name, Finding("crash", f"the process that ran the kernel ended: {cause}", "", line, code), seed=job.seed
    )


def _where(stack: str, source: Source, folder: Path) -> tuple[int | None, str]:
    """The innermost line of the learner's text in a faulthandler dump (innermost first)."""
    found = re.search(rf'File "{re.escape(str(folder))}/piece(\d+)\.py", line (\d+)', stack)
    if not found:
        return None, ""
    piece, line = int(found[1]), int(found[2])
    lines = source.pieces[piece].text.splitlines()
    return line, lines[line - 1].strip() if line <= len(lines) else ""


# --- the pipe between them -----------------------------------------------------------------------

def _send(pipe: BinaryIO, value: Any) -> None:
    data = pickle.dumps(value)
    pipe.write(struct.pack("<Q", len(data)) + data)
    pipe.flush()


def _receive(pipe: BinaryIO) -> Any:
    """The next value; None at the end of the pipe."""
    head = pipe.read(8)
    return pickle.loads(pipe.read(struct.unpack("<Q", head)[0])) if len(head) == 8 else None
