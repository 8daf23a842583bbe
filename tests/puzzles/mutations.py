"""Hundreds of wrong answers, made by a program: each is a solution with one thing changed.

    python -m tests.puzzles.mutations [PUZZLE ...] [--every N] [--seeds N]

judges them and prints those that passed. Each of these is either right in all that the puzzle promises
(EQUIVALENT says why), or a case is missing in its puzzle.
"""

import argparse
import ast
import copy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from puzzles.catalogue import PUZZLES
from puzzles.checking import judge_text
from puzzles.judge.verdict import Verdict
from puzzles.puzzle import Puzzle
from puzzles.source import from_text
from puzzles.wrong import solution_parts, solution_text
from tests.puzzles.equivalent import reason

_STARTS = ("0.0", "-1000.0", "-10000.0")
_OTHERS = ("0.0", "1.0", "-float('inf')")
_COMPARISONS = {ast.Lt: ast.LtE, ast.GtE: ast.Gt, ast.Gt: ast.GtE, ast.LtE: ast.Lt}
_OPERATIONS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.FloorDiv: ast.Mod, ast.Mod: ast.FloorDiv}
_FUNCTIONS = {"maximum": "minimum", "minimum": "maximum", "max": "min", "argmax": "argmin", "sigmoid": "exp"}


@dataclass(frozen=True)
class Mutant:
    """A wrong answer: what was changed, and the whole text."""

    puzzle: str
    what: str
    text: str


def mutants(puzzle: Puzzle) -> list[Mutant]:
    """Every mutant of a puzzle's solution, each text once, in a fixed order."""
    rest, answer = solution_parts(solution_text(puzzle.sheet), puzzle.name)
    tree = ast.parse(answer)
    whole = ast.unparse(tree)
    made: dict[str, Mutant] = {}
    for what, changed in _changed(tree, puzzle):
        text = ast.unparse(ast.fix_missing_locations(changed))
        if text != whole and text not in made:
            made[text] = Mutant(puzzle.name, what, f"{rest}\n\n{text}\n")
    return list(made.values())


def _changed(tree: ast.Module, puzzle: Puzzle) -> Iterator[tuple[str, ast.Module]]:
    kernel = next(i for i, node in enumerate(tree.body) if getattr(node, "name", "") == puzzle.name)
    nodes = [node for statement in tree.body[kernel].body for node in ast.walk(statement)]
    for at, node in enumerate(nodes):
        for what, new in _replacements(node, puzzle):
            yield f"{ast.unparse(node)[:60]!r}: {what}", _with(tree, kernel, {at: new})
    yield from _constants(tree, kernel, nodes, puzzle)
    yield from _exchanged(tree, kernel, nodes, puzzle)
    yield from _statements(tree, kernel)


def _with(tree: ast.Module, kernel: int, new: dict[int, ast.expr]) -> ast.Module:
    """A copy of the tree in which some nodes (counted as `_changed` counts them) are others."""
    changed = copy.deepcopy(tree)
    nodes = [node for statement in changed.body[kernel].body for node in ast.walk(statement)]
    put = {id(nodes[at]): copy.deepcopy(node) for at, node in new.items()}
    return _Put(put).visit(changed)


class _Put(ast.NodeTransformer):
    def __init__(self, new: dict[int, ast.AST]):
        self._new = new

    def visit(self, node: ast.AST) -> ast.AST:
        return self._new.get(id(node)) or self.generic_visit(node)


def _parsed(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def _sizes(puzzle: Puzzle) -> list[str]:
    """The parameters that are no pointers."""
    return [name for name in puzzle.parameters if not name.endswith("_ptr")]


def _values(puzzle: Puzzle, name: str) -> list[float]:
    """What a parameter is in the written cases, each value once."""
    if name.startswith("stride_"):
        return [1]
    return list(dict.fromkeys(case.sizes[name] for case in puzzle.cases))


# --- one node ------------------------------------------------------------------------------------

def _replacements(node: ast.AST, puzzle: Puzzle) -> Iterator[tuple[str, ast.AST]]:
    for make in (_names, _numbers, _operators, _calls):
        yield from make(node, puzzle)


def _names(node: ast.AST, puzzle: Puzzle) -> Iterator[tuple[str, ast.AST]]:
    """A size that is another one here, or a constant here."""
    sizes = _sizes(puzzle)
    if not isinstance(node, ast.Name) or node.id not in sizes:
        return
    for other in sizes:
        if other != node.id:
            yield f"is {other}", ast.Name(other)
    for value in _values(puzzle, node.id):
        yield f"is {value}", ast.Constant(value)


def _numbers(node: ast.AST, puzzle: Puzzle) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        for step in (-1, 1):
            yield f"is {node.value + step}", ast.Constant(node.value + step)
    if ast.unparse(node) in ("-float('inf')",):
        for start in _STARTS:
            yield f"is {start}", _parsed(start)


def _operators(node: ast.AST, puzzle: Puzzle) -> Iterator[tuple[str, ast.AST]]:
    match node:
        case ast.Compare(ops=[operator]) if type(operator) in _COMPARISONS:
            other = _COMPARISONS[type(operator)]()
            yield "compares otherwise", ast.Compare(node.left, [other], node.comparators)
        case ast.BinOp():
            yield "left part only", node.left
            yield "right part only", node.right
            if type(node.op) in _OPERATIONS:
                other = _OPERATIONS[type(node.op)]()
                yield f"{type(other).__name__}", ast.BinOp(node.left, other, node.right)
            if ast.unparse(node) == "h // (H // K)":
                yield "modulo K", _parsed("h % K")


def _calls(node: ast.AST, puzzle: Puzzle) -> Iterator[tuple[str, ast.AST]]:
    """Dropped and changed arguments of tl's functions."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return
    for at, keyword in enumerate(node.keywords):
        kept = node.keywords[:at] + node.keywords[at + 1:]
        if keyword.arg == "mask":
            kept = [one for one in kept if one.arg != "other"]
        if keyword.arg != "dtype":
            yield f"no {keyword.arg}", ast.Call(node.func, node.args, kept)
        if keyword.arg == "other":
            for value in _OTHERS:
                changed = [*kept, ast.keyword("other", _parsed(value))]
                yield f"other={value}", ast.Call(node.func, node.args, changed)
    name = node.func.attr
    if name in _FUNCTIONS:
        other = ast.Attribute(node.func.value, _FUNCTIONS[name])
        yield _FUNCTIONS[name], ast.Call(other, node.args, node.keywords)
    if name == "program_id":
        for axis in range(3):
            yield f"axis {axis}", ast.Call(node.func, [ast.Constant(axis)], [])
    if name == "where":
        condition, yes, no = node.args
        yield "the first always", yes
        yield "the second always", no
        yield "exchanged", ast.Call(node.func, [condition, no, yes], [])
    if name in ("exp", "log", "sqrt", "sigmoid", "trans", "to"):
        yield f"no {name}", node.args[0] if name != "to" else node.func.value
    if name == "zeros":
        yield "ones", ast.Call(ast.Attribute(node.func.value, "full"),
                               [node.args[0], ast.Constant(1.0)], node.keywords)


# --- the whole kernel ----------------------------------------------------------------------------

def _uses(nodes: list[ast.AST], name: str) -> list[int]:
    return [at for at, node in enumerate(nodes) if isinstance(node, ast.Name) and node.id == name]


def _constants(tree, kernel, nodes, puzzle) -> Iterator[tuple[str, ast.Module]]:
    """A constant wherever a size is used."""
    for name in _sizes(puzzle):
        for value in _values(puzzle, name):
            everywhere = dict.fromkeys(_uses(nodes, name), ast.Constant(value))
            yield f"{name} is {value} everywhere", _with(tree, kernel, everywhere)


def _exchanged(tree, kernel, nodes, puzzle) -> Iterator[tuple[str, ast.Module]]:
    """Two sizes that have changed places."""
    sizes = _sizes(puzzle)
    for i, name in enumerate(sizes):
        for other in sizes[:i]:
            swapped = dict.fromkeys(_uses(nodes, name), ast.Name(other))
            swapped |= dict.fromkeys(_uses(nodes, other), ast.Name(name))
            yield f"{name} and {other} exchanged", _with(tree, kernel, swapped)


def _statements(tree: ast.Module, kernel: int) -> Iterator[tuple[str, ast.Module]]:
    """Statements left out, done twice, and stores of something a little different."""
    count = len(list(_blocks(tree.body[kernel])))
    for at in range(count):
        for what, change in _STATEMENT_CHANGES.items():
            changed = copy.deepcopy(tree)
            block, i = list(_blocks(changed.body[kernel]))[at]
            text = ast.unparse(block[i])[:60]
            if change(block, i):
                yield f"{text!r} {what}", changed


def _blocks(function: ast.FunctionDef) -> Iterator[tuple[list[ast.stmt], int]]:
    """(the list that it stands in, its place there) of each statement."""
    for node in ast.walk(function):
        for i in range(len(getattr(node, "body", []))):
            yield node.body, i


def _left_out(block: list, i: int) -> bool:
    simple = isinstance(block[i], (ast.Assign, ast.AugAssign, ast.Expr))
    if simple:
        block[i] = ast.Pass()
    return simple


def _twice(block: list, i: int) -> bool:
    """A load twice is a matter of budgets, so only updates and stores count here."""
    if not isinstance(block[i], (ast.AugAssign, ast.Expr)):
        return False
    block.insert(i, copy.deepcopy(block[i]))
    return True


def _scaled(factor: str) -> Callable[[list, int], bool]:
    def change(block: list, i: int) -> bool:
        match block[i]:
            case ast.Expr(ast.Call(ast.Attribute(attr="store"), [_, value])):
                block[i].value.args[1] = ast.BinOp(value, ast.Mult(), _parsed(factor))
                return True
        return False
    return change


_STATEMENT_CHANGES = {
    "left out": _left_out,
    "twice": _twice,
    "times 1.1": _scaled("1.1"),
    "times 1.0001": _scaled("1.0001"),
    "times 2": _scaled("2"),
}


def survivors(some: list[Mutant], seeds: int = 1, log: Callable[[str], None] = print) -> list[Mutant]:
    """Those that pass one judgement at least, of `seeds`, and are not known to be right; and those that end
    the judge: no mutant asks for more than a mistake does."""
    passed = []
    for mutant in some:
        verdicts = _verdicts(mutant, seeds)
        ended = any(finding.kind == "crash" for verdict in verdicts for finding in verdict.findings)
        if not ended and not any(verdict.passed for verdict in verdicts):
            continue
        known = reason(mutant.puzzle, mutant.what)
        said = "ENDED THE JUDGE" if ended else f"(right: {known})" if known else "PASSED"
        log(f"{mutant.puzzle}: {mutant.what}   {said}")
        if ended or not known:
            passed.append(mutant)
    return passed


def _verdicts(mutant: Mutant, seeds: int) -> list[Verdict]:
    puzzle, text = PUZZLES[mutant.puzzle], from_text(mutant.text, mutant.puzzle)
    return [judge_text(puzzle, text, seed=1000 * seed + 7, full=False, seconds=8) for seed in range(seeds)]


def sample(every: int, first: int = 0) -> list[Mutant]:
    """Every n-th mutant of all puzzles together."""
    everything = [mutant for puzzle in PUZZLES.values() for mutant in mutants(puzzle)]
    return everything[first::every]


def main(arguments: list[str]) -> int:
    """The command: 0 if none passed."""
    parser = argparse.ArgumentParser(prog="python -m tests.puzzles.mutations", description=__doc__)
    parser.add_argument("puzzles", nargs="*", help="names; all if there are none")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args(arguments)
    names = options.puzzles or list(PUZZLES)
    some = [mutant for name in names for mutant in mutants(PUZZLES[name])][options.first::options.every]
    passed = survivors(some, options.seeds, log=lambda line: print(line, flush=True))
    print(f"{len(some)} mutants judged, {len(passed)} passed that are not known to be right")
    return bool(passed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
