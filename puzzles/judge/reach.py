"""A kernel that reaches outside of itself is told so in one sentence, before it runs.

Not the protection (that is the boundary of runner.py), but the explanation: whoever imports, walks frames or
looks behind the interpreter's blocks has not written a kernel for a GPU. What Triton's compiler refuses
anyway is refused here by name.
"""

import ast
import sys
from collections.abc import Iterator

from puzzles.judge.verdict import Finding
from puzzles.source import KernelText, Piece
from puzzles.syntax import parse

_HARMLESS_MODULES = ("math",)
_JUDGES = ("puzzles", "aiinfra", "gc", "_thread")
_REACHING = (
    "__import__", "eval", "exec", "compile", "open", "globals", "locals", "vars", "getattr", "setattr",
    "delattr", "input", "breakpoint", "interpreter_builder", "interpreter_semantic", "_interpreter",
    "GridExecutor", "TensorHandle",
)
_BEHIND = ("handle", "runtime", "interpreter", "builder", "_semantic", "f_back", "f_globals", "f_locals",
           "gi_frame", "modules")
_SEES = "A kernel sees only its arguments, tl, other kernels and tl.constexpr constants."


def reaching(text: KernelText) -> Finding | None:
    """The finding for a text whose functions reach outside of themselves; None for a kernel."""
    for piece in text.pieces:
        try:
            tree = parse(piece.text)
        except SyntaxError:
            return None                           # told where the text is executed
        outside = (_modules(tree, piece) | set(_REACHING)) - _own_names(tree)
        for node in _inside_kernel(tree, piece.name):
            if name := _reached(node, outside):
                message = f"The kernel reaches for `{name}`, which is not part of it. {_SEES}"
                line = getattr(node, "lineno", None)
                return Finding("reaches_out", message, line=line, code=piece.line(line or 0))
    return None


def _modules(tree: ast.Module, piece: Piece) -> set[str]:
    """The names that stand for modules of Python's own, or of the judge."""
    found = set()
    for name, how in (piece.names or {}).items():
        if how[0] == "module" and _is_outside(how[1]):
            found.add(name)
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            home = getattr(node, "module", None)
            for alias in node.names:
                if _is_outside(home or alias.name):
                    found.add((alias.asname or alias.name).split(".")[0])
    return found


def _own_names(tree: ast.Module) -> set[str]:
    """What the text itself assigns or takes as a parameter: `input` is a good name for a block."""
    assigned = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not _is_read(node)}
    return assigned | {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}


def _is_read(node: ast.Name) -> bool:
    return isinstance(node.ctx, ast.Load)


def _is_outside(module: str) -> bool:
    top = module.split(".")[0]
    if top in _HARMLESS_MODULES:
        return False
    return top in sys.stdlib_module_names or top in _JUDGES or "runtime" in module.split(".")


def _inside_kernel(tree: ast.Module, name: str) -> Iterator[ast.AST]:
    """Everything in the function of this name and in those that it names: bodies, defaults and decorators."""
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    waiting, met = [name], set()
    while waiting:
        current = waiting.pop()
        if current in met or current not in functions:
            continue
        met.add(current)
        for node in ast.walk(functions[current]):
            yield node
            if isinstance(node, ast.Name):
                waiting.append(node.id)


def _reached(node: ast.AST, outside: set[str]) -> str:
    """What a node reaches for; "" if it stays inside."""
    match node:
        case ast.Import(names=[alias, *_]):
            return alias.name
        case ast.ImportFrom(module=module):
            return module or "."
        case ast.Name(id=name) if name in outside:
            return name
        case ast.Name(id=name) if name.startswith("__"):
            return name
        case ast.Attribute(attr=name) if name in _BEHIND or name.startswith("__"):
            return f".{name}"
    return ""
