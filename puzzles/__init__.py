"""Triton puzzles, and a judge that can be trusted. Importing this runs nothing.

    from puzzles import check, hint, picture, progress
    check("add_constant", kernel)     a verdict: passed, or what is wrong and on which line
    hint("add_constant", 1)           a direction; 2 the steps; 3 nearly the code
    picture("add_constant")           the tiling
    progress()                        the board

    puzzle.py      what a puzzle is: one typed torch function
    specs/         the puzzles          sheets/     the notebooks where they are solved
    solutions/     one answer each      wrong/      at least four wrong answers each, and how they are caught
    judge/         what happens to a kernel
    python -m puzzles                   the same from a terminal
Notebook 09 opens the door.
"""

from typing import Any

__all__ = ["check", "hint", "picture", "progress"]


def __getattr__(name: str) -> Any:
    from importlib import import_module
    homes = {
        "check": "puzzles.checking",
        "hint": "puzzles.hints",
        "picture": "puzzles.hints",
        "progress": "puzzles.board",
    }
    if name not in homes:
        raise AttributeError(f"module 'puzzles' has no attribute {name!r}")
    return getattr(import_module(homes[name]), name)
