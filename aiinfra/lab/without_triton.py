"""Where Triton is not installed (macOS, Windows), cells that need it say one sentence, and the page goes on.

    @triton.jit                        This cell needs Triton, which …
    def add_kernel(…): …        ──►
    add_kernel[(1,)](x)                This cell needs Triton, which …   it uses what the first would define

Invariant: with Triton nothing is changed. `start` calls this for a page; a sheet's first cell does so itself.
"""

import ast
from importlib.util import find_spec

from IPython import get_ipython

SENTENCE = "This cell needs Triton, which is not installed here (it ships for Linux)."
_TRITON = {"triton", "tl"}
_COMPILERS = ("aiinfra.gpu.listing", "aiinfra.gpu.compile", "aiinfra.gpu.dry_run", "aiinfra.gpu.traffic")


def skip_kernels() -> None:
    """From the next cell on, skip those that need Triton, if it is missing; does nothing twice."""
    shell = get_ipython()
    if shell is None or _installed():
        return
    if not any(isinstance(known, SkipKernels) for known in shell.ast_transformers):
        shell.ast_transformers.append(SkipKernels())


def _installed() -> bool:
    try:
        return find_spec("triton") is not None and bool(__import__("triton"))
    except ImportError:
        return False


class SkipKernels(ast.NodeTransformer):
    """Puts the sentence in place of a cell that needs Triton itself, or a name that a skipped cell would
    define."""

    def __init__(self) -> None:
        self.missing = set(_TRITON)

    def visit_Module(self, cell: ast.Module) -> ast.Module:
        """The cell, or the sentence."""
        nodes = list(ast.walk(cell))
        needs = self.missing | _from_compilers(nodes)
        if not needs & _used(nodes):
            self.missing -= _defined(nodes) - _TRITON
            return cell
        self.missing |= _defined(nodes) | _from_compilers(nodes)
        sentence = ast.parse(f"print({SENTENCE!r})")
        sentence.body[:0] = [line for line in cell.body if _is_other_import(line)]  # later cells may use them
        return sentence


def _is_other_import(line: ast.stmt) -> bool:
    if isinstance(line, ast.ImportFrom):
        return line.module not in _COMPILERS and not (line.module or "").startswith("triton")
    return isinstance(line, ast.Import) and not line.names[0].name.startswith("triton")


def _used(nodes: list[ast.AST]) -> set[str]:
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


def _defined(nodes: list[ast.AST]) -> set[str]:
    names = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return names | {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def _from_compilers(nodes: list[ast.AST]) -> set[str]:
    """What the cell imports from modules that compile kernels."""
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module in _COMPILERS]
    return {name.asname or name.name for node in imports for name in node.names}
