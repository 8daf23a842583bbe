"""An exception inside the interpreter, told as a line of the reader's kernel and what to look at."""

import difflib
import re
import traceback

from puzzles.judge.verdict import Finding
from puzzles.source import Piece

# pattern in the message -> what to look at
_ADVICE = (
    (
        r"incompatible dimensions|make_shape_compatible|could not be broadcast",
        "the shapes that meet here: [:, None] makes a column, [None, :] a row",
    ),
    (
        r"not iterable|not subscriptable|unsupported tensor index|item assignment",
        "the square brackets: pointers are not indexed, write tl.load(x_ptr + offsets); blocks know only [:, None] and [None, :]",
    ),
    (r"power of 2", "the bounds of tl.arange: Triton's blocks have power-of-two lengths; a mask cuts the rest"),
    (r"constexpr", "whether this value is a tl.constexpr: block sizes are, run-time arguments are not"),
    (r"other. cannot be provided without", "the mask= that is missing beside other="),
    (
        r"Mask argument cannot be block type",
        "the pointer: it is a single address; add offsets such as tl.arange to it",
    ),
    (r"Unsupported ptr type|ptr type", "the first argument: loads and stores take pointers, as in x_ptr + offsets"),
    (r"takes? .*positional|unexpected keyword|missing .* required", "the arguments of this call"),
    (r"K dimension|inner dimensions|dot|matmul: Input operand", "the shapes of tl.dot: [M, K] times [K, N]"),
)


def explain(error: BaseException, files: dict[str, Piece], case: str = "",
            program: tuple[int, ...] | None = None) -> Finding:
    """The finding for an exception: root cause, and the last line of the reader's text on the way to it."""
    chain = _chain(error)
    line, code = next(filter(None, (place(e, files) for e in reversed(chain))), (None, ""))
    root = chain[-1]
    message = f"{type(root).__name__}: {_message(root)}"
    return Finding("error", message, _advice(root), line, code, program, case)


def root_cause(error: BaseException) -> BaseException:
    return _chain(error)[-1]


def _chain(error: BaseException) -> list[BaseException]:
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    return chain


def place(error: BaseException, files: dict[str, Piece]) -> tuple[int, str] | None:
    """The last line of the reader's text on the way to `error`, and its code."""
    if isinstance(error, SyntaxError) and error.filename in files:
        return error.lineno, (error.text or "").strip()
    mine = [f for f in traceback.extract_tb(error.__traceback__) if f.filename in files]
    if not mine:
        return None
    lines = files[mine[-1].filename].text.splitlines()
    return mine[-1].lineno, lines[mine[-1].lineno - 1].strip()


def _message(error: BaseException) -> str:
    text = (error.msg if isinstance(error, SyntaxError) else str(error)).strip() or "no message"
    return text.splitlines()[0][:300]


def _advice(error: BaseException) -> str:
    if isinstance(error, AttributeError) and getattr(error, "name", None) and error.obj is not None:
        close = difflib.get_close_matches(error.name, dir(error.obj), 1)
        if close:
            return f"the name: there is a `{close[0]}`"
    if isinstance(error, NameError) and not isinstance(error, UnboundLocalError):
        return "the spelling; a kernel sees only its arguments, tl, other kernels and tl.constexpr constants"
    if isinstance(error, RecursionError):
        return "the call: a kernel cannot call itself"
    return next((advice for pattern, advice in _ADVICE if re.search(pattern, str(error))), "this line")
