"""Right answers in unusual valid forms, one file a puzzle: each must be accepted, whatever is drawn.

    # --- the lanes from the last to the first         what is unusual, then the answer with all that it needs
    @triton.jit
    def add_constant(...):

A judge that refuses one of these knows one way of writing a kernel, not what a kernel is.
"""

import re
from dataclasses import dataclass
from pathlib import Path

_MARK = re.compile(r"^# --- (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Unusual:
    """A right answer: what is unusual, and the whole text."""

    puzzle: str
    what: str
    text: str


def all_accepted() -> list[Unusual]:
    """Every answer of every file here."""
    found = []
    for file in sorted(Path(__file__).parent.glob("[!_]*.py")):
        header, *parts = _MARK.split(file.read_text())
        for what, answer in zip(parts[::2], parts[1::2], strict=True):
            found.append(Unusual(puzzle=file.stem, what=what, text=header + answer))
    return found
