"""A line that can be read aloud: the law of lines, for every folder alike and with no exceptions by name.

Kernels are excepted, and the puzzles' answers, which are kernels: their lines are formulas over blocks.
"""

import ast
from itertools import groupby
from pathlib import Path

from tests.source_tree import HOUSE, ROOT, at, branches, density, fields, files, functions, house, is_answer
from tests.source_tree import nodes, say, short, statements, text

MOST_NODES, MOST_BRANCHES, MOST_COLUMNS, MOST_LINES = 5.0, 10, 110, 400
PROSE = [path for path in house() if not short(path).startswith("aiinfra/kernels/") and not is_answer(path)]


def folder_of(path: Path) -> str:
    """A folder directly under a top one, with all that is below; a file beside them is of the top folder."""
    top = next(top for top in HOUSE if path.is_relative_to(ROOT / top))
    below = path.relative_to(ROOT / top).parts
    return f"{top}/{below[0]}" if len(below) > 1 else top


def test_a_line_holds_one_thought():
    folders = {folder: density(paths) for folder, paths in groupby(sorted(PROSE, key=folder_of), folder_of)}
    dense = [f"{folder} has {nodes:.2f}" for folder, nodes in folders.items() if nodes >= MOST_NODES]
    say(f"A folder has fewer than {MOST_NODES} expression nodes a line.", dense)


def test_a_function_decides_little():
    many = []
    for path in PROSE:
        found = [(function, branches(function)) for function in functions(path)]
        many += [f"{at(path, one)} {one.name} has {count}" for one, count in found if count > MOST_BRANCHES]
    say(f"A function has at most {MOST_BRANCHES} branches.", many)


def test_a_line_fits_the_page():
    wide = [f"{short(path)}:{number} has {len(line)}" for path in files(*HOUSE, "tests")
            for number, line in enumerate(text(path).splitlines(), 1) if len(line) > MOST_COLUMNS]
    say(f"A line has at most {MOST_COLUMNS} columns: a page shows this source.", wide)


def test_a_file_is_about_one_idea():
    long = [f"{short(path)} has {count}" for path in files(*HOUSE, "tests")
            if (count := len(text(path).splitlines())) > MOST_LINES]
    say(f"A file has at most {MOST_LINES} lines.", long)


def test_a_record_is_made_by_keyword():
    large = {node.name for _, node in nodes(ast.ClassDef) if fields(node) > 3}
    unnamed = []
    for path, call in nodes(ast.Call):
        name = ast.unparse(call.func).rpartition(".")[2]
        if name in large and len(call.args) > 3:
            unnamed.append(f"{at(path, call)} {name} gets {len(call.args)} values by position")
    say("A record or config with more than three values is made by keyword.", unnamed)


def test_a_statement_chooses_once():
    twice = [at(path, statement) for path in PROSE for statement, parts in statements(path)
             if sum(isinstance(part, ast.IfExp) for part in parts) > 1]
    say("A statement has at most one `x if c else y`: an `if` stands on its own line.", twice)


def test_no_tuple_is_made_and_thrown_away():
    thrown = [at(path, node) for path, node in nodes(ast.Expr) if isinstance(node.value, ast.Tuple)]
    say("Two calls are two statements, not a tuple that nobody reads.", thrown)


def is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or isinstance(node, ast.Constant) and isinstance(node.value, str)


def is_yes_or_no(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):
        return ast.unparse(node.func) in ("bool", "any", "all", "isinstance", "hasattr")
    if isinstance(node, ast.Constant):
        return isinstance(node.value, bool)
    return isinstance(node, ast.Compare) or isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)


def test_text_that_may_be_absent_is_an_if():
    times = []
    for path, node in nodes(ast.BinOp):
        if isinstance(node.op, ast.Mult):
            one, other = node.left, node.right
            if is_text(one) and is_yes_or_no(other) or is_text(other) and is_yes_or_no(one):
                times.append(at(path, node))
    say("Text is not multiplied by a condition.", times)


def unlike(values: list[ast.expr]) -> bool:
    """True for values that are not the same operation on different things."""
    called = {ast.unparse(value.func) for value in values if isinstance(value, ast.Call)}
    return len({type(value) for value in values}) > 1 or len(called) > 1


def test_at_most_two_names_are_set_at_once():
    crowded = []
    for path, node in nodes(ast.Assign):
        if isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple) and path in PROSE:
            values = node.value.elts
            if len(values) > 2 and unlike(values):
                crowded.append(at(path, node))
    say("One line sets at most two names, unless they come from the same operation.", crowded)
