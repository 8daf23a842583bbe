"""Take a kernel out of a notebook: its text, its helpers' text, and the constants they use.

    notebook process                                 worker process
    kernel ──► KernelText(pieces) ── plain data ──►  rebuild.load(text) ──► the same kernel

The kernel is judged in another process, so that an endless loop or a crash cannot hurt the
notebook. Text travels, not the object: it is the one form that both Triton's interpreter and its
compiler start from. Line numbers stay those of the cell, so a finding points at the reader's line.
"""

import ast
import builtins
import inspect
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

from puzzles.cells import lines_in_a_cell
from puzzles.syntax import parse

_KERNEL_TYPES = ("JITFunction", "InterpretedFunction")
_CONSTEXPR_TYPES = ("ConstexprFunction",)
_TUNERS = ("Autotuner", "Heuristics")
_JIT, _CONSTEXPR = "jit", "constexpr_function"                  # how a function is decorated


class BadInput(ValueError):
    """What was handed to the judge cannot be judged; the message is one clear sentence."""


@dataclass(frozen=True)
class Piece:
    """One text to execute. `names` fills its namespace; None means that it is a whole file."""

    name: str
    text: str                                       # padded: line n here is line n of the reader's cell
    # name -> ("module", m) | ("attr", m, q) | ("value", v) | ("constexpr", way) | ("dtype", d) | ("piece", i)
    names: dict[str, tuple] | None = None
    decorator: str = _JIT                           # Triton's, which the worker puts on

    def line(self, number: int) -> str:
        """The code of a line, counted from 1; "" if there is no such line."""
        lines = self.text.splitlines()
        if not 0 < number <= len(lines):
            return ""
        return lines[number - 1].strip()


@dataclass(frozen=True)
class KernelText:
    """A kernel in the form that travels: helpers first, the kernel itself last."""

    name: str
    pieces: tuple[Piece, ...]


def from_kernel(kernel: Any) -> KernelText:
    """The KernelText of a @triton.jit function, tuned or not. Raises BadInput for anything else."""
    kernel = untuned(kernel)
    if not is_kernel(kernel):
        raise BadInput(not_a_kernel(kernel))
    collector = _Collector()
    collector.add(kernel.fn)
    return KernelText(kernel.fn.__name__, tuple(collector.pieces))


def from_text(text: str, name: str) -> KernelText:
    """The KernelText of the function `name` in a whole file's text."""
    return KernelText(name, (Piece(name, text),))


def is_kernel(value: Any) -> bool:
    """Whether `value` is a @triton.jit function."""
    return _is_of_triton(value, _KERNEL_TYPES)


def untuned(value: Any) -> Any:
    """The kernel under @triton.autotune and @triton.heuristics: here the judge chooses the block sizes."""
    while _is_of_triton(value, _TUNERS):
        value = value.fn
    return value


def _is_of_triton(value: Any, names: Sequence[str]) -> bool:
    """By name: Triton must not be imported here before the reader has chosen the interpreter."""
    kind = type(value)
    return kind.__name__ in names and kind.__module__.startswith("triton.")


def not_a_kernel(value: Any) -> str:
    """The sentence that says what was passed in place of a kernel, and what to do."""
    kind = type(value).__name__
    if not isinstance(value, FunctionType):
        return f"check() needs a function decorated with @triton.jit, but got {kind}: {str(value)[:60]!r}."
    if ".<locals>" in value.__qualname__ and "triton" in value.__module__:
        return "You passed kernel[grid]: pass the kernel itself; the judge launches it."
    return f"`{value.__name__}` is a plain Python function: put @triton.jit on the line above its def."


class _Collector:
    """The pieces of a kernel and of its helpers, helpers first."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self._indices: dict[FunctionType, int] = {}
        self._under_way: list[FunctionType] = []            # their helpers are being collected

    def add(self, fn: FunctionType, decorator: str = _JIT) -> int:
        """Append the pieces of `fn` after those of its helpers; return its index."""
        if fn in self._under_way:
            raise BadInput(f"`{fn.__name__}` calls itself: a kernel has no recursion. Write a loop.")
        if fn not in self._indices:
            self._under_way.append(fn)
            piece = self._piece(fn, decorator)
            self._indices[fn] = len(self.pieces)
            self.pieces.append(piece)
            self._under_way.remove(fn)
        return self._indices[fn]

    def _piece(self, fn: FunctionType, decorator: str) -> Piece:
        lines, first = _lines(fn)
        whole = textwrap.dedent("".join(map(_without_comment, lines)))
        node = parse(whole).body[0]
        decorators = node.lineno - 1                         # left out: the worker decorates
        text = "".join(whole.splitlines(keepends=True)[decorators:])
        padding = "\n" * (first + decorators - 1)
        names = {name: self._ship(name, value, fn) for name, value in _used(fn, node).items()}
        return Piece(name=fn.__name__, text=padding + text, names=names, decorator=decorator)

    def _ship(self, name: str, value: Any, fn: FunctionType) -> tuple:
        """How a name's value travels. Raises BadInput for what cannot be part of a kernel."""
        if isinstance(value, ModuleType):
            return "module", value.__name__
        if is_kernel(value):
            return self._ship_function(value, _JIT)
        if _is_of_triton(value, _CONSTEXPR_TYPES):
            return self._ship_function(value, _CONSTEXPR)
        home = getattr(value, "__module__", None) or ""
        if home.startswith("triton.") and hasattr(value, "__name__"):
            return "attr", home, getattr(value, "__qualname__", value.__name__)
        if _is_constant(value):
            return "value", value
        if home.startswith("triton.language") and _is_of_the_language(value):
            return _plain(value)
        if isinstance(value, FunctionType):
            raise BadInput(f"`{fn.__name__}` calls `{name}`, a plain Python function: "
                           "put @triton.jit above its def, too.")
        raise BadInput(f"`{fn.__name__}` uses `{name}`, a {type(value).__name__} from outside: "
                       "a kernel sees only its arguments, tl, other kernels and tl.constexpr constants.")

    def _ship_function(self, value: Any, decorator: str) -> tuple:
        home = value.fn.__module__
        if home.partition(".")[0] == "triton":
            return "attr", home, value.fn.__name__
        return "piece", self.add(value.fn, decorator)


def _lines(fn: FunctionType) -> tuple[list[str], int]:
    """The lines of a function, decorators included, and the number of the first."""
    try:
        return inspect.getsourcelines(fn)
    except (OSError, TypeError) as error:
        if found := lines_in_a_cell(fn.__name__):
            return found
        message = f"The source of `{fn.__name__}` cannot be found: define it in a notebook cell or a file."
        raise BadInput(message) from error


def _used(fn: FunctionType, node: ast.FunctionDef) -> dict[str, Any]:
    """The outside names that a function's body and annotations refer to, with their values."""
    outside = fn.__globals__ | inspect.getclosurevars(fn).nonlocals
    annotations = [argument.annotation for argument in node.args.args if argument.annotation]
    parts = [*node.body, *annotations, *node.args.defaults]
    loaded = {name.id for part in parts for name in ast.walk(part) if isinstance(name, ast.Name)}
    loaded -= {name for name in fn.__code__.co_varnames if not hasattr(builtins, name)}
    used = {name: outside[name] for name in sorted(loaded) if name in outside}
    return {name: value for name, value in used.items() if getattr(builtins, name, None) is not value}


def _without_comment(line: str) -> str:
    """A line; one that is only a comment becomes empty, as it may stand left of the function's own margin."""
    if line.lstrip().startswith("#"):
        return "\n"
    return line


def _is_constant(value: Any) -> bool:
    """Whether `value` is plain data: by its exact type, as a subclass of int could bring code along."""
    if type(value) is tuple:
        return all(map(_is_constant, value))
    return value is None or type(value) in (bool, int, float, str)


def _is_of_the_language(value: Any) -> bool:
    """A dtype, or a tl.constexpr of one or of plain data."""
    if type(value).__name__ == "constexpr":
        return _is_constant(value.value) or _is_of_the_language(value.value)
    return type(value).__name__ == "dtype"


def _plain(value: Any) -> tuple:
    """How plain data, a dtype or a tl.constexpr travels."""
    match type(value).__name__:
        case "constexpr":
            return "constexpr", _plain(value.value)
        case "dtype":
            return "dtype", str(value.name)
    return "value", value
