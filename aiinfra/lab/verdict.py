"""check(): run a judge on the learner's answer and say, in one line, how it stands.

    answer ──► is it still the stub? ──► judge ──► passed | wrong | not solved yet

Invariant: whatever the answer does, a verdict comes back, never a traceback, so "Run All"
goes on. An exception in the learner's code, or a loop without an end, is a wrong answer that
names the line of theirs.
Only `passed` and `wrong` are recorded, and a pass is never taken back.
"""

import dis
import sysconfig
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

from IPython.display import display

import aiinfra
from aiinfra.lab import hints, store, time_limit
from aiinfra.lab.exercise import Exercise, Unsolved, Wrong, find, folder
from aiinfra.lab.markup import SIGNS, Rich
from aiinfra.lab.store import PASSED, WRONG

UNSOLVED = "not solved yet"
_TONE = {PASSED: "good", WRONG: "bad", UNSOLVED: "calm"}
_LIBRARIES = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]
_NOT_THEIRS = tuple(str(Path(place).resolve()) for place in (aiinfra.__path__[0], folder(), *_LIBRARIES))
_NO_WORK = ("RESUME", "NOP", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST")   # what an empty function does


@dataclass(frozen=True, repr=False)
class ExerciseVerdict(Rich):
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
        return f"{SIGNS[self.tone]} {self.name} {self.status}"

    @property
    def body(self) -> str:
        """What stands under it."""
        return self.message

    def _ipython_display_(self) -> None:
        display(self.bundle(), raw=True)
        if not self.passed:
            hints.help_for(self.name).offer()


def check(name: str, answer: Any) -> ExerciseVerdict:
    """Judge the answer to exercise `name`; make it the last line of the cell.

    Raises ValueError for a name that does not exist, and nothing for any answer.
    """
    exercise = find(name)
    status, message = _judge(exercise, answer)
    if status != PASSED:
        message += hints.help_for(name).sentence
    trouble = ""
    if status != UNSOLVED:
        trouble = store.count_try("exercises", name, status == PASSED)
    return ExerciseVerdict(name=name, status=status, message=message, foot=trouble)


def _judge(exercise: Exercise, answer: Any) -> tuple[str, str]:
    """Status and message of an answer."""
    open_ = UNSOLVED, "Write the cell above and run it again; "
    if is_stub(answer):
        return open_
    try:
        return PASSED, _run(exercise, answer) or "Right."
    except Wrong as wrong:
        return WRONG, f"{wrong}\n"
    except (Unsolved, NotImplementedError):
        return open_
    except time_limit.StillRunning as stopped:
        return WRONG, f"Still running after {time_limit.SECONDS:g} s{_where(stopped)}. Does your loop end?\n"
    except Exception as error:            # the one place where a learner's code may raise anything
        if isinstance(error, TypeError) and "ellipsis" in str(error):
            return UNSOLVED, "A `...` is still in the way; "
        return WRONG, f"{_describe(error)}\n"


def _run(exercise: Exercise, answer: Any) -> str | None:
    """The judge's praise, if any. It raises what is wrong."""
    if not exercise.timed:
        return exercise.judge(answer)
    return time_limit.limited(lambda: exercise.judge(answer), _is_timed)


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
    """True if the body is nothing but a docstring, comments, `pass` or `...`: it only returns None."""
    steps = list(dis.get_instructions(function))
    if any(step.opname not in _NO_WORK for step in steps):
        return False
    constants = [step.argval for step in steps if step.opname in ("LOAD_CONST", "RETURN_CONST")]
    return constants == [None]


def _describe(error: Exception) -> str:
    """The error and the last line of the learner's own that led to it."""
    text = f"{type(error).__name__}: {error}".strip().rstrip(".")
    text = text.splitlines()[0]
    where = _where(error)
    if not where:
        return f"Your answer could not be used. {text}."
    return f"{text}{where}"


def _where(error: BaseException) -> str:
    """The learner's last line on the way to the error, or "" if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if _is_theirs(frame.filename)]
    if not theirs:
        return ""
    last = theirs[-1]
    return f", in line {last.lineno} of your cell: `{last.line}`"


def _is_theirs(filename: str) -> bool:
    return not str(Path(filename).resolve()).startswith(_NOT_THEIRS)


def _is_timed(filename: str) -> bool:
    return _is_theirs(filename) and not filename.startswith("<frozen")
