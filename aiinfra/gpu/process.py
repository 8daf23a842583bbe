"""Another process: a fresh one in which kernels are interpreted, or are not; and a copy of this one that
may die.

    call(function, *arguments, interpret=False)   a fresh Python ──► function(*arguments) ──► its result
    start("module:function", interpret=True)      a fresh Python that talks through its two pipes
    fork(work), end(child)                        a copy of this process, and the end of all that it started
    in_fork(work, seconds)                        a copy of this process ──► what it wrote until it ended

Whether a Triton kernel is interpreted or compiled is settled when it is decorated, by TRITON_INTERPRET in
the environment. So who has kernels of one kind and needs the other asks another process. Invariant: this is
the only place that starts one for this reason, and the only one that forks. Notebook 08 compiles from a
page that interprets.
"""

import io
import os
import pickle
import re
import select
import signal
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from aiinfra.environment import child_environment

_ROOT = str(Path(__file__).parents[2])
_START = ("import sys; sys.path[:0] = {path!r}; from importlib import import_module; "
          "import_module({module!r}).{name}()")
_MOST_SAID = 2000                        # characters of a failed process's last words
_LENGTH = struct.Struct("<Q")            # before each value in a pipe
_LAST_SECONDS = 1.0                      # from the last word of a copy to its end
_LOOK_SECONDS = 0.005                    # between two looks whether a process has ended


class ChildFailed(RuntimeError):
    """A fresh process ended without a result. Its text is the error that the process died of."""

    def __init__(self, exit_code: int, said: str):
        super().__init__(said)
        self.exit_code = exit_code


def call(function: Callable, *arguments: Any, interpret: bool, **environment: str) -> Any:
    """function(*arguments), computed in a fresh process; `function` stands at the top of an importable
    module.

    `interpret` says what kernels are there; `environment` is added to this process's own. Arguments and
    result are pickled. Raises ChildFailed if the function raises or the process dies.
    """
    question = pickle.dumps((*_address(function), arguments))
    done = subprocess.run(
        _command(f"{__name__}:_answer", ()),
        input=question,
        capture_output=True,
        env=_environment(interpret, environment),
    )
    if done.returncode:
        raise ChildFailed(done.returncode, _last_words(done.stderr.decode(errors="replace")))
    return receive(io.BytesIO(done.stdout))


def start(program: str, interpret: bool, path: Iterable[str] = (), **environment: str) -> subprocess.Popen:
    """A fresh process that runs `program`, "module:function", which reads its stdin and answers through
    `replies()`.

    By name, because whoever starts it need not load it. The process leads a group of its own, so that it
    can be ended with all that it started. `path` is put before the places where it looks for modules.
    """
    return subprocess.Popen(
        _command(program, path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=_environment(interpret, environment),
        start_new_session=True,
    )


def replies() -> BinaryIO:
    """In the fresh process: its stdout, for answers only. What anyone prints from now on goes to stderr."""
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return pipe


def send(pipe: BinaryIO, value: Any) -> None:
    """Put a value into a pipe, whole."""
    pickled = pickle.dumps(value)
    pipe.write(_LENGTH.pack(len(pickled)) + pickled)
    pipe.flush()


def receive(pipe: BinaryIO) -> Any:
    """The next value from a pipe; None if the other end has closed it, or died on the way.

    From an unbuffered pipe not a byte more than the value is read.
    """
    length = _exactly(pipe, _LENGTH.size)
    if length is None:
        return None
    pickled = _exactly(pipe, *_LENGTH.unpack(length))
    if pickled is None:
        return None
    return pickle.loads(pickled)


def _exactly(pipe: BinaryIO, count: int) -> bytes | None:
    """That many bytes; None if the pipe ends before."""
    got = bytearray()
    while len(got) < count:
        more = pipe.read(count - len(got))
        if not more:
            return None
        got += more
    return bytes(got)


@dataclass(frozen=True)
class Ended:
    """How a fork ended: what it wrote, whether it was in time, and its exit code (-9 if it was killed)."""

    output: bytes
    in_time: bool
    exit_code: int


def fork(work: Callable[[], object]) -> int:
    """Run `work()` in a copy of this process, in a session of its own. Returns the copy's process id, for
    `end`.

    Whatever `work` raises, changes or breaks is gone with the copy. This process must have one thread only:
    a lock that another thread holds would stay closed in the copy forever.
    """
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        work()
    except BaseException:
        traceback.print_exc()                            # nobody else will: this is the end of the copy
    finally:
        os._exit(0)                          # without the exit handlers, which belong to this process


def end(child: int, patience: float = 0.0) -> int:
    """End a copy made by `fork`, with all that it started in its session; returns its exit code, -9 if it was
    killed.

    It has `patience` seconds to end by itself.
    """
    deadline = time.monotonic() + patience
    while not _has_ended(child) and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
    kill_group(child)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def kill_group(leader: int) -> None:
    """Kill a process that leads a session, and everybody in it."""
    for kill in (os.killpg, os.kill):                    # before its setsid, a copy leads nobody
        try:
            kill(leader, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):    # it has ended; on macOS also: it is ending
            pass


def _has_ended(child: int) -> bool:
    """Whether a child has ended; its exit code stays to be asked for."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def in_fork(work: Callable[[int], object], seconds: float) -> Ended:
    """`fork` with a pipe: run `work(pipe)`, end it after `seconds` at the latest, and return what it wrote.

    `pipe` is a file number.
    """
    read_end, write_end = os.pipe()

    def write() -> None:
        os.close(read_end)
        work(write_end)

    child = fork(write)
    os.close(write_end)
    in_time = False
    try:
        output, in_time = _read_all(read_end, time.monotonic() + seconds)
    finally:
        os.close(read_end)
        exit_code = end(child, patience=_LAST_SECONDS if in_time else 0.0)
    return Ended(output, in_time, exit_code)


def _read_all(pipe: int, deadline: float) -> tuple[bytes, bool]:
    """What comes out of a pipe, and whether its other end closed before the deadline."""
    chunks = []
    while _readable(pipe, deadline):
        chunk = os.read(pipe, 1 << 16)
        if not chunk:
            return b"".join(chunks), True
        chunks.append(chunk)
    return b"".join(chunks), False


def _readable(pipe: int, deadline: float) -> bool:
    left = max(0.0, deadline - time.monotonic())
    ready, _, _ = select.select([pipe], [], [], left)
    return bool(ready)


def _answer() -> None:
    """What a fresh process of `call` does."""
    pipe = replies()
    module, name, arguments = pickle.load(sys.stdin.buffer)
    function = getattr(import_module(module), name)
    send(pipe, function(*arguments))


def _address(function: Callable) -> tuple[str, str]:
    """Module and name of a function; the module's own name even where it was started as a program."""
    module = sys.modules[function.__module__]
    return module.__spec__.name, function.__name__


def _command(program: str, path: Iterable[str]) -> list[str]:
    module, name = program.split(":")
    return [sys.executable, "-c", _START.format(path=[_ROOT, *path], module=module, name=name)]


def _environment(interpret: bool, more: dict[str, str]) -> dict[str, str]:
    return child_environment(TRITON_INTERPRET="1" if interpret else None, **more)


def _last_words(stderr: str) -> str:
    """The error at the end of a traceback, without the frames above it."""
    return re.split(r"\n(?=[\w.]+Error: )", stderr.strip())[-1][-_MOST_SAID:]
