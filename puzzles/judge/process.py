"""Another process, with a time limit: an endless loop or a crash ends there, not in the notebook.

    notebook ──text, job──► service.py (torch and Triton loaded, idle) ──fork──► child.py: the learner's code
             ◄────reply────        judges                              ◄─data──  then gone

The service never runs a learner's kernel itself, so a check costs a fork (milliseconds) and nothing
of one check is left for the next. It ends when the notebook's end of its pipe closes. At the limit
an alarm stops the fork at the line it was at; if it does not react (inside NumPy or the compiler),
it is stopped from outside a little later. Temporary files are in a folder that goes with the service.
"""

import atexit
import functools
import os
import subprocess
import tempfile
import threading
from dataclasses import replace

from aiinfra.gpu import process
from puzzles.judge.job import FOLDER_PREFIX, Job, Rejected, Reply, Stage
from puzzles.judge.verdict import Finding, GpuRun, ResourceUsage, Verdict, rejected

# By name: whoever imports it loads Triton, and this file is imported in the notebook, too.
_SERVICE = "puzzles.judge.service:main"
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_LAST_SECONDS = 5.0                          # in which a service ends what it runs, and itself


class Worker:
    """A warm process that judges kernels, interpreted or compiled. Close it, or leave that to the exit.

    Each call does one stage of a job. A kernel that ends the judge's own process has failed, too.
    """

    def __init__(self, interpret: bool, path: tuple[str, ...] = ()):
        """`path`: where the modules of its puzzles are found, beside this project's."""
        self._interpret = interpret
        self._path = path
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None
        self._folder: tempfile.TemporaryDirectory | None = None

    def interpret(self, job: Job) -> Verdict:
        """Run the kernel on all cases, watched. A kernel that crashed or ran out of time is a Verdict, too.
        """
        reply = self._ask("interpret", job)
        if reply.findings:
            return rejected(job.name, reply.findings, seed=job.seed, printed=reply.printed)
        return replace(reply.result, printed=reply.printed)

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
            self.close()
            self._folder = tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX, ignore_cleanup_errors=True)
            self._process = process.start(
                _SERVICE, interpret=self._interpret, path=self._path, TMPDIR=self._folder.name, **_ONE_THREAD,
            )
        return self._process

    def close(self) -> None:
        """End the process, whatever it runs, and its files."""
        if self._process is None:
            return
        ending, folder = self._process, self._folder
        self._process = self._folder = None
        try:
            ending.stdin.close()             # it ends by itself, and ends what it runs
        except BrokenPipeError:
            pass
        try:
            ending.wait(_LAST_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill_group(ending.pid)
            ending.wait()
        ending.stdout.close()
        folder.cleanup()

    def _ask(self, stage: Stage, job: Job) -> Reply:
        with self._lock:
            try:
                service = self.running
                process.send(service.stdin, (stage, job.text, job.seconds))
                process.send(service.stdin, job)
                reply = process.receive(service.stdout)
            except BrokenPipeError:
                reply = None
            except BaseException:            # an interrupt too: a half-read reply would answer the next check
                self.close()
                raise
            if reply is None:
                self.close()
                return Reply(findings=(_ENDED,))
            return reply


_ENDED = Finding(
    kind="crash",
    message="the judge's own process ended while it judged this kernel",
    look_at="whether the kernel ends other processes; if not, its last words are above",
)


@functools.cache
def _shared(pid: int, interpret: bool) -> Worker:
    worker = Worker(interpret)
    atexit.register(worker.close)
    return worker


def shared_worker(interpret: bool) -> Worker:
    """This process's own worker, started at the first use."""
    return _shared(os.getpid(), interpret)       # by process: a forked copy must not share the pipe
