"""An exception of the interpreter or the compiler, told as a line of the reader's kernel and what to look at.

    kernel, line 14: x = helper(x, c)          CompilationError, without a reason of its own
      helper, line 7: return x + y             ... raised from this one: its line and reason are told
"""

import ast
import re
import traceback
from collections.abc import Mapping

from aiinfra.errors import nearest_name
from puzzles.judge.verdict import Finding
from puzzles.source import Piece
from puzzles.syntax import parse

_MOST_SAID = 300
_NOT_INTERPRETED = ("the operation, not your formula: Triton's interpreter, in which kernels are watched "
                    "here, cannot do it, though a GPU may. Say it with other operations of tl")
_NAMES = "the spelling; a kernel sees only its arguments, tl, other kernels and tl.constexpr constants"

# pattern in the message -> what to look at
_ADVICE = {
    r"incompatible dimensions|make_shape_compatible|could not be broadcast|Expected (pointer|value|mask) arg":
        "the shapes that meet here: [:, None] makes a column, [None, :] a row",
    r"not iterable|not subscriptable|unsupported tensor index|item assignment":
        "the square brackets: pointers are not indexed, write tl.load(x_ptr + offsets); "
        "blocks know only [:, None] and [None, :]",
    r"power of 2":
        "the bounds of tl.arange: Triton's blocks have power-of-two lengths; a mask cuts the rest",
    r"Cannot access global variable":
        "this name: a kernel sees a number from outside only as a constant, NAME = tl.constexpr(2)",
    r"must be of type tl.constexpr|must have type `constexpr|is not a constexpr":
        "whether this value is a tl.constexpr: block sizes are, run-time arguments are not",
    r"cannot reassign constexpr|constexpr cannot be reassigned":
        "the name on the left: a tl.constexpr keeps its value, so take another name",
    r"Boolean value of Tensor":
        "Python's `if`, `while` and `not`: they work on single numbers, not on blocks; for blocks, write "
        "tl.where(cond, a, b)",
    r"Loop-carried variable|has initial type|but is re-assigned":
        "what this variable is before the loop: start it with the type and shape that it has in the loop, "
        "as tl.zeros([BLOCK], dtype=tl.float32)",
    r"only have one block|return.* inside|[Rr]eturn statement":
        "the return: a kernel cannot leave a loop in the middle",
    r"[Mm]ultiple assignment":
        "a = b = value: write a line for each",
    r"multiple comparison":
        "two comparisons in one: write (low <= i) & (i < high)",
    r"f-string":
        "the f-string: a kernel cannot make text of what it computes",
    r"unsupported AST node type":
        "this statement: Triton's compiler knows assignments, if, for over range, while and calls of kernels",
    r"16-byte aligned|last dim must be contiguous":
        "the descriptor: rows must be contiguous and begin at multiples of 16 bytes, so sizes such as N or M "
        "cannot be strides; pointers and masks can do it",
    r"extern_elementwise|cannot convert None":
        "a function that only a GPU has, such as libdevice's: tl.exp, tl.sqrt and tl.math are everywhere",
    r"PassManager::run failed":
        "what is unusual here, for Triton's compiler gave up: it cannot move block pointers in a while loop",
    r"other. cannot be provided without":
        "the mask= that is missing beside other=",
    r"Mask argument cannot be block type":
        "the pointer: it is a single address; add offsets such as tl.arange to it",
    r"Unsupported ptr type|ptr type":
        "the first argument: loads and stores take pointers, as in x_ptr + offsets",
    r"takes? .*positional|unexpected keyword|missing .* required":
        "the arguments of this call",
    r"Input shapes should have|at least 16":
        "the blocks of tl.dot: K is at least 16",
    r"K dimension|inner dimensions|dot|matmul: Input operand":
        "the shapes of tl.dot: [M, K] times [K, N]",
}


def explain(error: BaseException, files: Mapping[str, Piece],
            program: tuple[int, ...] | None = None) -> Finding:
    """The finding for an exception: root cause, and the last line of the reader's text on the way to it."""
    chain = _chain(error)
    root = next((one for one in reversed(chain) if _reason(one).strip()), chain[-1])
    places = [place(one, files) for one in reversed(chain)]
    line, code = next(filter(None, places), (None, ""))
    if "ultiple assignment" in str(root):
        line, code = _multiple_assignment(files) or (line, code)
    return Finding(
        kind="error",
        message=_message(root),
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
    if hasattr(error, "node") and getattr(error, "src", None):
        return _place_in_source(error, files)
    if isinstance(error, SyntaxError) and error.filename in files:
        return error.lineno, (error.text or "").strip()
    mine = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    if not mine:
        return None
    last = mine[-1]
    return last.lineno, files[last.filename].line(last.lineno)


def _place_in_source(error: BaseException, files: Mapping[str, Piece]) -> tuple[int, str] | None:
    """A CompilationError carries one function's source, without decorators, and the syntax node in it."""
    if not hasattr(error.node, "lineno"):
        return None
    source = error.src.strip().splitlines()
    at = error.node.lineno - 1
    for piece in files.values():
        mine = [line.rstrip() for line in piece.text.splitlines()]
        for first, line in enumerate(mine, 1):
            if line == source[0] and mine[first - 1 + at:first + at] == [source[at].rstrip()]:
                return first + at, source[at].strip()
    return None


def _multiple_assignment(files: Mapping[str, Piece]) -> tuple[int, str] | None:
    """The first `a = b = value` of the reader's text: the interpreter does not say where it is."""
    for piece in files.values():
        for node in ast.walk(parse(piece.text)):
            if isinstance(node, ast.Assign) and len(node.targets) > 1:
                return node.lineno, piece.line(node.lineno)
    return None


def _message(error: BaseException) -> str:
    """ValueError: what it says."""
    lines = _reason(error).strip().splitlines() or ["no message"]
    said = lines[0][:_MOST_SAID]
    if inner := re.fullmatch(r"(\w+(?:Error|Exception))\((['\"])(.*)\2\)", lines[0]):
        return f"{inner[1]}: {inner[3][:_MOST_SAID]}"    # the compiler quotes what it stumbled over
    return f"{type(error).__name__}: {said}"


def _reason(error: BaseException) -> str:
    """What an exception says, without the source that a CompilationError repeats."""
    if isinstance(error, SyntaxError):
        return error.msg
    if hasattr(error, "error_message"):
        return error.error_message or ""
    return str(error)


def _advice(error: BaseException) -> str:
    """What to look at."""
    if _is_limit_of_the_interpreter(error):
        return _NOT_INTERPRETED
    if close := _nearest_attribute(error):
        return f"the name: there is a `{close}`"
    if _is_unknown_name(error):
        return _NAMES
    if isinstance(error, RecursionError):
        return "the call: a kernel cannot call itself"
    for pattern, advice in _ADVICE.items():
        if re.search(pattern, f"{type(error).__name__} {_reason(error)}"):
            return advice
    return "this line"


def _is_limit_of_the_interpreter(error: BaseException) -> bool:
    """It says so, or lacks the method that the compiler's builder has. (By name: the text may not import it.)
    """
    lacking = type(getattr(error, "obj", None)).__name__ == "InterpreterBuilder"
    return lacking or isinstance(error, NotImplementedError) or str(error) == "Unsupported data type"


def _is_unknown_name(error: BaseException) -> bool:
    if re.match(r"NameError\(.*is not defined", _reason(error)):
        return True                                      # as the compiler says it
    return isinstance(error, NameError) and not isinstance(error, UnboundLocalError)


def _nearest_attribute(error: BaseException) -> str | None:
    """What the reader may have meant by a name that an object does not have."""
    if not isinstance(error, AttributeError) or not error.name or error.obj is None:
        return None
    return nearest_name(error.name, dir(error.obj), cutoff=0.6)
