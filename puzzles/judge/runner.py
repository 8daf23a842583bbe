"""The learner's process, as the judge sees it: a fork that runs their code, and that only answers.

    judge's process                                      fork: the learner's process (child.py)
    inputs, answers, tolerance, memory, verdict          their kernel, Triton's interpreter
        request ──────────────── channel (wire.py) ──────────►
        ◄──────── accesses, texts, numbers: plain data ──────

THE TRUST BOUNDARY. The learner's text is executed in the fork and nowhere else. The fork is made before the
judge's process has read the seed, so the inputs and the answers are in nobody's memory there; it keeps no
file of ours but the channel. Every load and store passes the judge's memory, so an input is known there only
as far as it was loaded and counted, and an output is what was stored. Of what comes back, findings can only
fail a kernel; "passed" is computed here. Texts are shown, never executed; nothing is unpickled.

What remains possible for code that breaks out of its kernel inside the fork: to compute with Python what
Triton should compute (such a text does not compile for a GPU, which is the next stage, unless it also hands
over the translation of another kernel), and to say that another program or line made an access (a race
between two programs could be told as one program's). Outside of the boundary lie the notebook, whose cells
may print what they like and hand in what they like, and the files and processes that the user's own account
may change: this is a judge, not a prison. reach.py refuses by name what looks like any of it.
"""

import re
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from aiinfra.gpu import confine, process
from puzzles.judge.job import out_of_memory, out_of_time
from puzzles.judge.verdict import KINDS, Finding
from puzzles.judge.wire import Channel, Closed, Late, Malformed
from puzzles.rebuild import piece_files
from puzzles.source import KernelText

MEMORY_BYTES = 2 << 30
_GRACE_SECONDS = 2.0                         # beyond the learner's own alarm
_LAST_SECONDS = 0.5                          # in which a process that fell silent may end by itself
_MOST_PRINTED = 100_000                      # characters
_MOST_SAID = 500
_NO_ACCESS = "the process that ran the kernel sent {what}, which no kernel does"

# What a fork does with the text: (text, folder, channel, seconds, stack file)
Serve = Callable[[KernelText, Path, Channel, float, Path], None]


class EndedEarly(Exception):
    """The learner's process has nothing more to say. Carries the finding, which says why."""

    def __init__(self, finding: Finding):
        super().__init__(finding.message)
        self.finding = finding


def raise_finding(answer: dict[str, Any]) -> None:
    """Raises EndedEarly if the learner's process answers with a finding."""
    if "finding" in answer:
        raise EndedEarly(_finding(answer["finding"]))


class LearnerProcess:
    """One learner's process. Close it: whatever it started ends with it.

    `files` says which piece of the learner's text each of its files holds.
    """

    def __init__(self, text: KernelText, seconds: float, folder: Path, serve: Serve, watched: int,
                 on_gpu: bool = False):
        """Fork now. `folder` takes its files; news on the file `watched` end a wait."""
        self._on_gpu = on_gpu
        self.files = piece_files(text, folder)
        self._text = text
        self._seconds = seconds
        self._folder = folder
        mine, theirs = socket.socketpair()
        mine.settimeout(seconds)
        self.channel = Channel(mine, [watched])
        self._process = process.fork(lambda: self._run(serve, theirs))
        theirs.close()
        self._exit_code: int | None = None
        self.deadline = time.monotonic() + seconds + _GRACE_SECONDS

    def ask(self, request: dict[str, Any], read: Callable[[dict[str, Any], bytes], Any]) -> Any:
        """What `read` makes of the answer to a request; it may raise Malformed. Raises EndedEarly if there is
        no answer, or a finding in its place.
        """
        self.channel.post(request)
        return self.heard(lambda: read(*self._answer()))

    def heard(self, listen: Callable[[], Any]) -> Any:
        """What listen() hears on the channel. Raises EndedEarly if there is nothing, or a finding in its
        place."""
        try:
            return listen()
        except Malformed as error:
            raise EndedEarly(Finding("crash", _NO_ACCESS.format(what=error))) from error
        except (Late, Closed) as error:
            raise EndedEarly(self._death(time.monotonic() > self.deadline)) from error

    def _answer(self) -> tuple[dict[str, Any], bytes]:
        answer, data = self.channel.receive(self.deadline)
        raise_finding(answer)
        return answer, data

    @property
    def printed(self) -> str:
        """What the learner's process printed."""
        text = _read(self._folder / "printed", _MOST_PRINTED + 1)
        if len(text) > _MOST_PRINTED:
            return text[:_MOST_PRINTED] + "\n… and more"
        return text

    def close(self) -> int:
        """End the process, and all that it started; returns its exit code."""
        if self._exit_code is None:
            self.channel.close()
            self._exit_code = process.end(self._process, _LAST_SECONDS)
            confine.end_children()
        return self._exit_code

    def _run(self, serve: Serve, end: socket.socket) -> None:
        """In the fork."""
        most = None if self._on_gpu else MEMORY_BYTES            # CUDA reserves addresses without end
        kept = confine.confine(end.fileno(), self._folder / "printed", most)
        end.detach()
        channel = Channel(socket.socket(fileno=kept))
        serve(self._text, self._folder, channel, self._seconds, self._folder / "stack")

    def _death(self, late: bool) -> Finding:
        """The process sent no answer: it ran out of time, or something stopped it."""
        exit_code = self.close()
        stack = _read(self._folder / "stack")
        line, code = _where(stack, self._text, self._folder)
        if late or "Timeout" in stack:
            return out_of_time(self._seconds, line, code)
        if exit_code == -signal.SIGKILL:
            return out_of_memory(MEMORY_BYTES, line, code)
        cause = f"exit code {exit_code}"
        if exit_code < 0:
            cause = signal.Signals(-exit_code).name
        if printed := self.printed.strip():
            cause += f": {printed.splitlines()[-1][:_MOST_SAID]}"
        message = f"the process that ran the kernel ended: {cause}"
        return Finding("crash", message, line=line, code=code)


def _finding(said: Any) -> Finding:
    """A finding of the learner's process, as plain data; part by part, as it may be anything."""
    if not isinstance(said, dict):
        said = {}
    kind = said.get("kind")
    if kind not in KINDS:
        kind = "error"
    line = said.get("line")
    if type(line) is not int:
        line = None
    return Finding(
        kind=kind,
        message=str(said.get("message"))[:_MOST_SAID],
        look_at=str(said.get("look_at") or "")[:_MOST_SAID],
        line=line,
        code=str(said.get("code") or "")[:_MOST_SAID],
    )


def _read(file: Path, most: int = -1) -> str:
    """The first characters of a file; "" if there is none, or something else stands in its place."""
    if file.is_symlink() or not file.is_file():
        return ""
    with open(file, errors="replace") as text:
        return text.read(most)


def _where(stack: str, text: KernelText, folder: Path) -> tuple[int | None, str]:
    """The innermost line of the learner's text in a faulthandler dump (innermost first)."""
    name = re.escape(str(folder))
    found = re.search(rf'File "{name}/piece(\d+)\.py", line (\d+)', stack)
    if not found:
        return None, ""
    piece, line = int(found[1]), int(found[2])
    if piece >= len(text.pieces):
        return None, ""
    return line, text.pieces[piece].line(line)
