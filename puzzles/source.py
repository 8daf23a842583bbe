"""Take a kernel out of a notebook: its text, its helpers' text, and the constants they use.

    notebook process                         worker process (puzzles/judge/worker.py)
    kernel ──► Source(pieces) ── pickle ──►  load(source) ──► the same kernel, from the same text

The kernel is judged in another process, so that an endless loop or a crash cannot hurt the
notebook. Text travels, not the object: it is the one form that both Triton's interpreter and its
compiler start from. Line numbers stay those of the cell, so a finding points at the reader's line.
"""

import ast
import builtins
import inspect
import json
import textwrap
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

_JIT_TYPES = ("JITFunction", "InterpretedFunction")


class BadInput(ValueError):
    """What was handed to the judge cannot be judged; the message is one clear sentence."""


@dataclass(frozen=True)
class Piece:
    """One text to execute. `names` fills its namespace; None means that it is a whole file."""

    name: str
    text: str                                       # padded: line n here is line n of the reader's cell
    names: dict[str, tuple] | None = None  # name -> ("module", m) | ("attr", m, q) | ("value", v) | ("piece", i)


@dataclass(frozen=True)
class Source:
    """A kernel in the form that travels: helpers first, the kernel itself last."""

    name: str
    pieces: tuple[Piece, ...]


def from_kernel(kernel: Any) -> Source:
    """The Source of a @triton.jit function. Raises BadInput if `kernel` is something else."""
    if not _is_jit(kernel):
        raise BadInput(_not_a_kernel(kernel))
    pieces: list[Piece] = []
    _collect(kernel.fn, pieces, {})
    return Source(kernel.fn.__name__, tuple(pieces))


def from_text(text: str, name: str) -> Source:
    """The Source of the function `name` in a whole file's text."""
    return Source(name, (Piece(name, text),))


def from_file(path: Path) -> str:
    """The definitions of a .py or .ipynb file: its functions, imports and assignments, lines kept.

    Everything else (calls, loops, prints) is left out, so that judging a file runs no script.
    """
    text = _notebook_code(path) if path.suffix == ".ipynb" else path.read_text()
    lines = text.splitlines()
    kept = [""] * len(lines)
    for node in _parse(text, path.name).body:
        if isinstance(node, (ast.FunctionDef, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)):
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            kept[first - 1:node.end_lineno] = lines[first - 1:node.end_lineno]
    return "\n".join(kept) + "\n"


def functions(text: str) -> list[str]:
    """Names of the functions that a file defines at its top level."""
    return [node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]


def _parse(text: str, name: str) -> ast.Module:
    try:
        return ast.parse(text)
    except SyntaxError as error:
        raise BadInput(f"{name}, line {error.lineno}: Python cannot read this file: {error.msg}.") from error


def _notebook_code(path: Path) -> str:
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    lines = [line for cell in cells for line in "".join(cell["source"]).splitlines()]
    return "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in lines)


def _is_jit(value: Any) -> bool:
    # By name: the judge must not import Triton here before the reader has chosen the interpreter.
    return type(value).__name__ in _JIT_TYPES and type(value).__module__.startswith("triton.")


def _not_a_kernel(kernel: Any) -> str:
    name = getattr(kernel, "__name__", type(kernel).__name__)
    if type(kernel).__name__ in ("Autotuner", "Heuristics"):
        return ("This kernel is wrapped in @triton.autotune or @triton.heuristics: "
                "take that decorator off, because the judge chooses the block sizes.")
    if isinstance(kernel, FunctionType) and ".<locals>" in kernel.__qualname__ and "triton" in kernel.__module__:
        return "You passed kernel[grid]: pass the kernel itself; the judge launches it."
    if isinstance(kernel, FunctionType):
        return f"`{name}` is a plain Python function: put @triton.jit on the line above its def."
    return (
        f"check() needs a function decorated with @triton.jit, but got {type(kernel).__name__}: {str(kernel)[:60]!r}."
    )


def _collect(fn: FunctionType, pieces: list[Piece], done: dict[FunctionType, int]) -> int:
    """Append the pieces of `fn` after those of its helpers; return its index."""
    if fn in done:
        return done[fn]
    try:
        lines, first = inspect.getsourcelines(fn)
    except (OSError, TypeError) as error:
        raise BadInput(
            f"The source of `{fn.__name__}` cannot be found: define it in a notebook cell or a file."
        ) from error
    node = ast.parse(textwrap.dedent("".join(lines))).body[0]
    skipped = node.lineno - 1                                        # decorator lines: the worker decorates
    text = textwrap.dedent("".join(lines[skipped:]))
    names = {name: _ship(name, value, fn, pieces, done) for name, value in _used(fn, node).items()}
    pieces.append(Piece(fn.__name__, "\n" * (first + skipped - 1) + text, names))
    done[fn] = len(pieces) - 1
    return done[fn]


def _used(fn: FunctionType, node: ast.FunctionDef) -> dict[str, Any]:
    """The outside names that a function's body and annotations refer to, with their values."""
    outside = {**fn.__globals__, **inspect.getclosurevars(fn).nonlocals}
    parts = [*node.body, *(a.annotation for a in node.args.args if a.annotation), *node.args.defaults]
    loaded = {n.id for part in parts for n in ast.walk(part) if isinstance(n, ast.Name)}
    loaded -= {name for name in fn.__code__.co_varnames if not hasattr(builtins, name)}
    return {name: outside[name] for name in sorted(loaded) if name in outside and not _is_builtin(name, outside[name])}


def _is_builtin(name: str, value: Any) -> bool:
    return getattr(builtins, name, None) is value


def _ship(name: str, value: Any, fn: FunctionType, pieces: list[Piece], done: dict[FunctionType, int]) -> tuple:
    """How a name's value travels. Raises BadInput for what cannot be part of a kernel."""
    if isinstance(value, ModuleType):
        return "module", value.__name__
    if _is_jit(value) and value.fn.__module__.startswith("triton."):
        return "attr", value.fn.__module__, value.fn.__name__
    if _is_jit(value):
        return "piece", _collect(value.fn, pieces, done)
    home = getattr(value, "__module__", None) or ""
    if home.startswith("triton.") and hasattr(value, "__name__"):
        return "attr", home, getattr(value, "__qualname__", value.__name__)
    if _is_constant(value) or (home.startswith("triton.language") and type(value).__name__ in ("constexpr", "dtype")):
        return "value", value
    if isinstance(value, FunctionType):
        raise BadInput(f"`{fn.__name__}` calls `{name}`, a plain Python function: put @triton.jit above its def, too.")
    raise BadInput(f"`{fn.__name__}` uses `{name}`, a {type(value).__name__} from outside: "
                   "a kernel sees only its arguments, tl, other kernels and tl.constexpr constants.")


def _is_constant(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_constant, value))
    return value is None or isinstance(value, (bool, int, float, str))


def load(source: Source, folder: Path) -> tuple[Any, dict[str, Piece], dict[str, Any]]:
    """Rebuild the kernel in this process. Returns it, the map from file name to piece, and its namespace.

    Whether it becomes an interpreted or a compiled kernel is up to TRITON_INTERPRET, as always.
    """
    built, files, space = [], {}, {}
    for i, piece in enumerate(source.pieces):
        path = folder / f"piece{i}.py"
        path.write_text(piece.text)              # Triton reads a kernel's text from its file
        files[str(path)] = piece
        space = _namespace(piece, built)
        exec(compile(piece.text, str(path), "exec", dont_inherit=True), space)
        built.append(_jit(space[piece.name], piece))
    return built[-1], files, space


def _namespace(piece: Piece, built: list) -> dict[str, Any]:
    space: dict[str, Any] = {"__name__": f"answer_{piece.name}",
                             "triton": import_module("triton"), "tl": import_module("triton.language")}
    for name, (kind, *where) in (piece.names or {}).items():
        if kind == "piece":
            space[name] = built[where[0]]
        elif kind == "value":
            space[name] = where[0]
        elif kind == "module":
            space[name] = import_module(where[0])
        else:
            space[name] = getattr(import_module(where[0]), where[1])
    return space


def _jit(value: Any, piece: Piece) -> Any:
    if piece.names is not None:
        return import_module("triton").jit(value)
    if not _is_jit(value):
        raise BadInput(_not_a_kernel(value))
    return value
