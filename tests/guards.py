"""Tables of faults: what went wrong somewhere, and which tests would have caught it."""

import ast
from pathlib import Path

TESTS = Path(__file__).parent
Guards = dict[str, list[str]]              # a fault -> folder/file.py::test, …


def check_guards(guards: Guards) -> None:
    """Raise AssertionError for a fault without a test, and for a test that does not exist."""
    for fault, tests in guards.items():
        assert tests, fault
        for test in tests:
            file, _, name = test.partition("::")
            assert name in _functions(TESTS / file), f"{fault}: {test} does not exist"


def _functions(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
