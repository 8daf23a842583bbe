"""An exception inside the interpreter, told as a line of the reader's kernel and what to look at."""

import re
import traceback
from collections.abc import Mapping

from aiinfra.errors import nearest_name
from puzzles.judge.verdict import Finding
from puzzles.source import Piece

_MOST_SAID = 300
_NOT_INTERPRETED = ("the operation, not your formula: Triton's interpreter, in which kernels are watched "
                    "here, cannot do it, though a GPU may. Say it with other operations of tl")
_NAMES = "the spelling; a kernel sees only its arguments, tl, other kernels and tl.constexpr constants"

# pattern in the message -> what to look at
_ADVICE = {
    r"incompatible dimensions|make_shape_compatible|could not be broadcast":
        "the shapes that meet here: [:, None] makes a column, [None, :] a row",
    r"not iterable|not subscriptable|unsupported tensor index|item assignment":
        "the square brackets: pointers are not indexed, write tl.load(x_ptr + offsets); "
        "blocks know only [:, None] and [None, :]",
    r"power of 2":
        "the bounds of tl.arange: Triton's blocks have power-of-two lengths; a mask cuts the rest",
    r"constexpr":
        "whether this value is a tl.constexpr: block sizes are, run-time arguments are not",
    r"other. cannot be provided without":
        "the mask= that is missing beside other=",
    r"Mask argument cannot be block type":
        "the pointer: it is a single address; add offsets such as tl.arange to it",
    r"Unsupported ptr type|ptr type":
        "the first argument: loads and stores take pointers, as in x_ptr + offsets",
    r"takes? .*positional|unexpected keyword|missing .* required":
        "the arguments of this call",
    r"K dimension|inner dimensions|dot|matmul: Input operand":
        "the shapes of tl.dot: [M, K] times [K, N]",
}


def explain(error: BaseException, files: Mapping[str, Piece],
            program: tuple[int, ...] | None = None) -> Finding:
    """The finding for an exception: root cause, and the last line of the reader's text on the way to it."""
    chain = _chain(error)
    root = chain[-1]
    places = [place(one, files) for one in reversed(chain)]
    line, code = next(filter(None, places), (None, ""))
    return Finding(
        kind="error",
        message=f"{type(root).__name__}: {_message(root)}",
        look_at=_advice(root),
        line=line,
        code=code,
        program=program,
    )


def root_cause(error: BaseException) -> BaseException:
    """The exception at the end of the chain of `raise ... from ...`."""
    return _chain(error)[-1]


def _chain(error: BaseException) -> list[BaseException]:
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    return chain


def place(error: BaseException, files: Mapping[str, Piece]) -> tuple[int, str] | None:
    """The last line of the reader's text on the way to `error`, and its code."""
    if isinstance(error, SyntaxError) and error.filename in files:
        return error.lineno, (error.text or "").strip()
    mine = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    if not mine:
        return None
    last = mine[-1]
    return last.lineno, files[last.filename].line(last.lineno)


def _message(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, SyntaxError):
        text = error.msg
    lines = text.strip().splitlines() or ["no message"]
    return lines[0][:_MOST_SAID]


def _advice(error: BaseException) -> str:
    """What to look at."""
    if _is_limit_of_the_interpreter(error):
        return _NOT_INTERPRETED
    if close := _nearest_attribute(error):
        return f"the name: there is a `{close}`"
    if isinstance(error, NameError) and not isinstance(error, UnboundLocalError):
        return _NAMES
    if isinstance(error, RecursionError):
        return "the call: a kernel cannot call itself"
    for pattern, advice in _ADVICE.items():
        if re.search(pattern, str(error)):
            return advice
    return "this line"


def _is_limit_of_the_interpreter(error: BaseException) -> bool:
    """It says so, or lacks the method that the compiler's builder has. (By name: the text may not import it.)
    """
    lacking = type(getattr(error, "obj", None)).__name__ == "InterpreterBuilder"
    return lacking or isinstance(error, NotImplementedError) or str(error) == "Unsupported data type"


def _nearest_attribute(error: BaseException) -> str | None:
    """What the reader may have meant by a name that an object does not have."""
    if not isinstance(error, AttributeError) or not error.name or error.obj is None:
        return None
    return nearest_name(error.name, dir(error.obj), cutoff=0.6)
