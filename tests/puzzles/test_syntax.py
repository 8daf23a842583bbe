"""Parsing from several threads at once, as judges that run side by side do."""

import gc
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from puzzles import syntax
from puzzles.syntax import parse

TEXT = "".join(f"def f{i}(x):\n    return {'(' * i}x + 1{')' * i}\n" for i in range(40))


@pytest.fixture
def collections_that_let_others_run():
    """A collection of garbage in the midst of a tree hands the interpreter to another thread, as one does
    that finds an object with a finalizer."""
    def give_way(phase, info):
        time.sleep(0)
    before = gc.get_threshold()
    gc.callbacks.append(give_way)
    gc.set_threshold(20)
    yield
    gc.set_threshold(*before)
    gc.callbacks.remove(give_way)


def test_threads_may_parse_side_by_side(collections_that_let_others_run):
    with ThreadPoolExecutor(4) as pool:
        trees = list(pool.map(parse, [TEXT] * 40))
    assert all(len(tree.body) == 40 for tree in trees)


def test_what_is_no_python_is_a_syntax_error_and_the_next_text_is_parsed():
    with pytest.raises(SyntaxError):
        parse("def f(:")
    assert parse("a = 1").body


def test_nobody_in_puzzles_parses_in_another_way():
    folder = Path(syntax.__file__).parent
    others = [path.name for path in folder.rglob("*.py") if "ast.parse(" in path.read_text()]
    assert others == ["syntax.py"]
