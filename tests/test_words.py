"""The house rules of words: what is public says what it does; one word, one thing; one thing, one place."""

import ast
import re
from collections import defaultdict
from pathlib import Path

from tests.source_tree import ROOT, Function, at, house, imports, is_answer, nodes, say, short, text, tree

PAGES = [*sorted(ROOT.glob("notebooks/[0-9]*.ipynb")), *sorted(ROOT.glob("puzzles/sheets/*.ipynb"))]


# Contracts

def public_things() -> list[tuple[str, ast.AST]]:
    """(file:line name, node) of every file, public class, function and method."""
    found: list[tuple[str, ast.AST]] = []
    for path in house():
        if text(path).strip():
            found.append((short(path), tree(path)))
        for node in tree(path).body:
            if is_public(node) and not described_elsewhere(path, node):
                found += with_methods(path, node)
    return found


def is_public(node: ast.AST) -> bool:
    return isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_")


def with_methods(path: Path, node: ast.AST) -> list[tuple[str, ast.AST]]:
    found: list[tuple[str, ast.AST]] = [(f"{at(path, node)} {node.name}", node)]
    if isinstance(node, ast.ClassDef):
        methods = [part for part in node.body if isinstance(part, Function) and is_public(part)]
        found += [(f"{at(path, part)} {node.name}.{part.name}", part) for part in methods]
    return found


def described_elsewhere(path: Path, node: ast.AST) -> bool:
    """A kernel is described by its wrapper, a judge by its hints and page, an answer by its puzzle."""
    marks = [ast.unparse(mark) for mark in node.decorator_list]
    return is_answer(path) or any(re.search("jit|^exercise", mark) for mark in marks)


def test_public_things_have_a_contract():
    passed_on = (".forward", ".backward")        # torch's own names, described on the class or its wrapper
    silent = [where for where, node in public_things() if not ast.get_docstring(node)]
    say("What is public says what it does.", [where for where in silent if not where.endswith(passed_on)])


def test_public_signatures_are_typed():
    untyped = []
    for where, node in public_things():
        if isinstance(node, Function):
            arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            bare = [each.arg for each in arguments if each.annotation is None]
            untyped += [f"{where}: {name}" for name in bare if name not in ("self", "cls", "ctx")]
    say("A public signature is typed.", untyped)


# One word, one thing

def test_no_public_class_name_stands_twice():
    homes = defaultdict(list)
    for path, node in nodes(ast.ClassDef):
        if not node.name.startswith("_") and not is_answer(path):
            homes[node.name].append(at(path, node))
    twice = [f"{name}: {', '.join(where)}" for name, where in homes.items() if len(where) > 1]
    say("A word has one meaning.", twice)


# One thing, one place

def test_the_nearest_name_is_found_in_one_place():
    users = {short(path) for path in house() for name, _ in imports(path) if name.split(".")[0] == "difflib"}
    say("Only aiinfra/errors.py looks for the nearest name.", users - {"aiinfra/errors.py"})


def moves_a_file(call: ast.Call) -> bool:
    """os.replace(…), os.rename(…), shutil.move(…), path.replace(other): of text, replace takes two values."""
    name = ast.unparse(call.func)
    if name in ("os.replace", "os.rename", "shutil.move"):
        return True
    return re.search(r"\.(replace|rename)$", name) is not None and len(call.args) == 1 and not call.keywords


def test_a_file_is_replaced_in_one_place():
    moved = [at(path, call) for path, call in nodes(ast.Call) if moves_a_file(call)]
    elsewhere = [where for where in moved if not where.startswith("aiinfra/files.py")]
    say("Only aiinfra/files.py writes beside a file and moves it there.", elsewhere)


def test_the_scheduler_has_one_driver():
    """The engine computes, the simulator does not; pages, judges and planner read the simulator's steps."""
    drivers = {short(path) for path in (*house(), *PAGES) for call in ast.walk(tree(path))
               if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("scheduler.commit")}
    allowed = {name for name in drivers if name.startswith("aiinfra/engine/")} | {"aiinfra/plan/simulate.py"}
    say("Only the engine and plan/simulate.py drive a scheduler.", drivers - allowed)


def test_there_is_one_plural():
    by_hand = []
    for path, node in nodes(ast.IfExp):
        ends = {end.value for end in (node.body, node.orelse) if isinstance(end, ast.Constant)}
        if ends == {"", "s"}:
            by_hand.append(at(path, node))
    say("A count and its noun are written by errors.plural.", by_hand)


def test_one_place_says_whether_a_child_interprets_its_kernels():
    """environment.py reads the variable; gpu/process.py gives it to a child or takes it away, and forks."""
    name = re.compile("TRITON_INTERPRET(=.?)?$")
    words = {short(path) for path, node in nodes(ast.Constant) if name.match(str(node.value))}
    given = {short(path) for path, node in nodes(ast.keyword) if node.arg == "TRITON_INTERPRET"}
    forks = {short(path) for path, call in nodes(ast.Call) if ast.unparse(call.func) == "os.fork"}
    say("Only gpu/process.py tells a child about TRITON_INTERPRET, and forks.",
        (words | given | forks) - {"aiinfra/environment.py", "aiinfra/gpu/process.py"})
