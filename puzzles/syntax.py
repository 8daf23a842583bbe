"""Source text as a tree, from any thread.

CPython 3.11 counts the depth of the tree that it builds in one place for all threads: two that parse at
once can end in "SystemError: AST constructor recursion depth mismatch". Judges run side by side: one waits.
"""

import ast
from threading import Lock

_ONE_AT_A_TIME = Lock()


def parse(text: str) -> ast.Module:
    """ast.parse(text), which may be called from several threads at once. Raises SyntaxError."""
    with _ONE_AT_A_TIME:
        return ast.parse(text)
