"""What the rules of the house look at: every source file, parsed once, its imports as files, its density.

    files("aiinfra", "puzzles")  ──►  tree(path)  ──►  imports(path)  ──►  reachable(path)

An import inside a function counts like any other: it is an arrow between two files.
"""

import ast
import functools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
HOUSE = ("aiinfra", "puzzles", "notebooks/exercises")
Function = ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def files(*folders: str) -> tuple[Path, ...]:
    """Every Python file under the folders, in order."""
    return tuple(path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))


@functools.cache
def text(path: Path) -> str:
    """What is written in a file; of a notebook, its code cells."""
    if path.suffix == ".ipynb":
        cells = nbformat.read(path, as_version=4).cells
        return "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    return path.read_text(encoding="utf-8")


@functools.cache
def tree(path: Path) -> ast.Module:
    """A file as a syntax tree."""
    return ast.parse(text(path))


@functools.cache
def house() -> tuple[Path, ...]:
    """The files that the rules are for."""
    return files(*HOUSE)


def nodes(*kinds: type[ast.AST]) -> Iterator[tuple[Path, ast.AST]]:
    """(file, node) of every node of these kinds in the house."""
    return ((path, node) for path in house() for node in ast.walk(tree(path)) if isinstance(node, kinds))


def is_answer(path: Path) -> bool:
    """True for the puzzles' solutions and wrong answers: kernels, each described by its puzzle."""
    return short(path).startswith(("puzzles/solutions/", "puzzles/wrong/"))


def short(path: Path) -> str:
    """The path as a reader of a message wants it."""
    return path.relative_to(ROOT).as_posix()


def at(path: Path, node: ast.AST) -> str:
    """file:line of a node."""
    return f"{short(path)}:{node.lineno}"


def say(rule: str, offenders: Iterable[object]) -> None:
    """Fail with the rule and everybody who breaks it, in one message."""
    found = sorted({str(offender) for offender in offenders})
    assert not found, f"{rule}\n{len(found)} do not:\n  " + "\n  ".join(found)


# ---------------------------------------------------------------- imports


def imports(path: Path) -> list[tuple[str, int]]:
    """(dotted name, line) of all that a file imports, wherever in it the import stands."""
    found = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found += [(f"{module}.{alias.name}", node.lineno) for alias in node.names]
    return found


def file_of(name: str) -> Path | None:
    """The file of this repository that an import of the dotted name reads; None if it is somebody else's."""
    while name:
        stem = ROOT / name.replace(".", "/")
        for path in (stem.with_suffix(".py"), stem / "__init__.py"):
            if path.exists():
                return path
        name = name.rpartition(".")[0]
    return None


@functools.cache
def neighbours(path: Path) -> frozenset[Path]:
    """The files of this repository that a file imports."""
    return frozenset(found for name, _ in imports(path) if (found := file_of(name)) and found != path)


def reachable(path: Path) -> set[Path]:
    """All files that a file needs, directly or through others."""
    seen: set[Path] = set()
    ahead = [path]
    while ahead:
        new = neighbours(ahead.pop()) - seen
        seen |= new
        ahead += new
    return seen


# ---------------------------------------------------------------- functions and statements


def functions(path: Path) -> Iterator[Function]:
    """Every function and method of a file, nested ones too."""
    return (node for node in ast.walk(tree(path)) if isinstance(node, Function))


def own_nodes(function: Function) -> Iterator[ast.AST]:
    """The nodes of a function without those of the functions inside it."""
    ahead: list[ast.AST] = list(function.body)
    while ahead:
        node = ahead.pop()
        yield node
        if not isinstance(node, Function):
            ahead += ast.iter_child_nodes(node)


def branches(function: Function) -> int:
    """How often a function decides: if, for, while, except, case, and/or, ternary, if in a comprehension."""
    loops = (ast.For, ast.AsyncFor, ast.While)
    deciding = (*loops, ast.If, ast.ExceptHandler, ast.match_case, ast.BoolOp, ast.IfExp)
    count = 0
    for node in own_nodes(function):
        if isinstance(node, deciding):
            count += 1
        elif isinstance(node, ast.comprehension):
            count += len(node.ifs)
    return count


def statements(path: Path) -> Iterator[tuple[ast.stmt, list[ast.expr]]]:
    """Every statement with the expressions that are its own: of a loop, its head and not its body."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.stmt):
            yield node, [part for child in ast.iter_child_nodes(node) for part in _expressions(child)]


def _expressions(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.stmt | ast.ExceptHandler | ast.match_case):
        return
    if isinstance(node, ast.expr):
        yield node
    for child in ast.iter_child_nodes(node):
        yield from _expressions(child)


def told_lines(path: Path) -> set[int]:
    """The lines of a file's docstrings."""
    told: set[int] = set()
    for node in ast.walk(tree(path)):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            told |= set(range(first.lineno, first.end_lineno + 1))
    return told


def density(paths: Iterable[Path]) -> float:
    """Expression nodes a code line, without docstrings, comments and annotations; 0 for no code."""
    expressions = lines = 0
    for path in paths:
        told = told_lines(path)
        for number, line in enumerate(text(path).splitlines(), 1):
            lines += bool(line.strip()) and not line.strip().startswith("#") and number not in told
        expressions += sum(isinstance(node, ast.expr) for node in ast.walk(_without_annotations(path)))
    return expressions / max(lines, 1)


def _without_annotations(path: Path) -> ast.Module:
    copy = ast.parse(text(path))
    for node in ast.walk(copy):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, Function):
            node.returns = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
    return copy


# ---------------------------------------------------------------- classes


def classes(path: Path) -> Iterator[ast.ClassDef]:
    """Every class of a file."""
    return (node for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef))


def fields(node: ast.ClassDef) -> int:
    """How many values a dataclass, a config or a NamedTuple is made of; 0 for any other class."""
    marks = [ast.unparse(mark) for mark in (*node.decorator_list, *node.bases)]
    if not any(re.search(r"\b(dataclass|config|NamedTuple)\b", mark) for mark in marks):
        return 0
    annotated = [ast.unparse(part.annotation) for part in node.body if isinstance(part, ast.AnnAssign)]
    return sum("ClassVar" not in annotation for annotation in annotated)
