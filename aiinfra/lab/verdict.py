"""check(): run a judge on the learner's answer and say, in one line, how it stands.

    answer ──► is it still the stub? ──► judge ──► passed | wrong | not solved yet

Invariant: whatever the answer does, a Verdict comes back, never a traceback, so "Run All"
goes on. An exception in the learner's code, or a loop without an end, is a wrong answer that
names the line of theirs.
Only `passed` and `wrong` are recorded, and a pass is never taken back.
"""

import dis
import sysconfig
import traceback
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import FunctionType
from typing import Any

import aiinfra
from aiinfra.lab import store, time_limit
from aiinfra.lab.exercise import Exercise, Unsolved, Wrong, find, folder
from aiinfra.lab.markup import Rich

PASSED, WRONG, UNSOLVED = "passed", "wrong", "not solved yet"
_TONE = {PASSED: "good", WRONG: "bad", UNSOLVED: "calm"}
_SIGN = {PASSED: "✓", WRONG: "✗", UNSOLVED: "○"}
_NOT_THEIRS = tuple(str(Path(folder).resolve()) for folder in
                    (Path(aiinfra.__path__[0]), folder(), sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"),
                     sysconfig.get_path("platlib")))
_PUZZLES = str(Path(aiinfra.__path__[0]).resolve().parent / "puzzles")        # its judge waits for compilers


@dataclass(frozen=True, repr=False)
class Verdict(Rich):
    """How an exercise stands: `status` is "passed", "wrong" or "not solved yet"."""

    name: str
    status: str
    message: str
    foot: str = ""

    @property
    def passed(self) -> bool:
        """True if the answer is right."""
        return self.status == PASSED

    @property
    def tone(self) -> str:
        """The colour that it is shown in."""
        return _TONE[self.status]

    @property
    def head(self) -> str:
        """The first line."""
        return f"{_SIGN[self.status]} {self.name} {self.status}"

    @property
    def body(self) -> str:
        """What stands under it."""
        return self.message


def check(name: str, answer: Any) -> Verdict:
    """Judge the answer to exercise `name`; make it the last line of the cell.

    Raises ValueError for a name that does not exist, and nothing for any answer.
    """
    exercise = find(name)
    status, message = _judge(exercise, answer)
    trouble = "" if status == UNSOLVED else _record(name, status)
    return Verdict(name, status, message, trouble)


def _judge(exercise: Exercise, answer: Any) -> tuple[str, str]:
    help_ = f'`hint("{exercise.name}")` helps.'
    if is_stub(answer):
        return UNSOLVED, f"Write the cell above and run it again; {help_}"
    try:
        return PASSED, time_limit.limited(lambda: exercise.judge(answer), _is_timed) or "Right."
    except Wrong as wrong:
        return WRONG, f"{wrong}\n{help_}"
    except (Unsolved, NotImplementedError):
        return UNSOLVED, f"Write the cell above and run it again; {help_}"
    except time_limit.StillRunning as stopped:
        return WRONG, f"Still running after {time_limit.SECONDS:g} s{_where(stopped)}. Does your loop end?\n{help_}"
    except Exception as error:            # the one place where a learner's code may raise anything
        if isinstance(error, TypeError) and "ellipsis" in str(error):
            return UNSOLVED, f"A `...` is still in the way; {help_}"
        return WRONG, f"{_describe(error)}\n{help_}"


def is_stub(answer: Any) -> bool:
    """True for None, `...`, an empty function, and a tuple, list or dict with any of these."""
    if isinstance(answer, dict):
        answer = tuple(answer.values())
    if isinstance(answer, (tuple, list)):
        return any(is_stub(part) for part in answer)
    if answer is None or answer is Ellipsis:
        return True
    return isinstance(answer, FunctionType) and _is_empty(answer)


def _is_empty(function: FunctionType) -> bool:
    """True if the body is nothing but a docstring, comments, `pass` or `...`."""
    work = [step for step in dis.get_instructions(function)
            if step.opname not in ("RESUME", "NOP", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST")]
    constants = [step.argval for step in dis.get_instructions(function)
                 if step.opname in ("LOAD_CONST", "RETURN_CONST")]
    return not work and constants == [None]


def _describe(error: Exception) -> str:
    """The error and the last line of the learner's own that led to it."""
    text = f"{type(error).__name__}: {error}".strip().rstrip(".").splitlines()[0]
    where = _where(error)
    return f"{text}{where}" if where else f"Your answer could not be used. {text}."


def _where(error: BaseException) -> str:
    """The learner's last line on the way to the error, or "" if there is none."""
    theirs = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_theirs(frame.filename)]
    return f", in line {theirs[-1].lineno} of your cell: `{theirs[-1].line}`" if theirs else ""


def _is_theirs(filename: str) -> bool:
    return not str(Path(filename).resolve()).startswith(_NOT_THEIRS)


def _is_timed(filename: str) -> bool:
    return _is_theirs(filename) and not filename.startswith(("<frozen", _PUZZLES))


def _record(name: str, status: str) -> str:
    kept = store.read("exercises", name)
    record = {"status": PASSED if PASSED in (status, kept.get("status")) else status,
              "tries": int(kept.get("tries", 0)) + 1,
              "passed_on": kept.get("passed_on") or (date.today().isoformat() if status == PASSED else None)}
    return store.write("exercises", name, record)
