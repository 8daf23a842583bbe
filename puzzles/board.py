"""The board: what is solved, kept in the user's own data folder, one small file for each puzzle.

    <data folder>/puzzles/online_softmax.json     {"solved": "2026-01-31", "tries": 3}

A sheet can be reset or deleted; the board stays. A file is written beside its place and moved
there, so it is the old one or the new one, never half of either; and as each puzzle has its own,
two notebooks at once lose nothing.
"""

import json
import os
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from aiinfra.environment import data_dir
from puzzles.catalogue import PUZZLES, SHEETS
from puzzles.judge.verdict import Verdict


@dataclass(frozen=True)
class Entry:
    """One puzzle on the board. `solved` is the date of the first pass, or None."""

    name: str
    tries: int = 0
    solved: str | None = None

    @property
    def state(self) -> str:
        return "solved" if self.solved else "tried" if self.tries else "open"


@dataclass(frozen=True, repr=False)
class Board:
    """All puzzles in order; shows itself in a notebook or a terminal."""

    entries: tuple[Entry, ...]

    @property
    def solved(self) -> int:
        return sum(entry.solved is not None for entry in self.entries)

    def __repr__(self) -> str:
        from puzzles.judge.render import board_text
        return board_text(self)

    def _repr_html_(self) -> str:
        from puzzles.judge.render import board_html
        return board_html(self)


def progress() -> Board:
    """The board as it stands."""
    return Board(tuple(read(name) for name in PUZZLES))


def read(name: str) -> Entry:
    """A puzzle's entry; a file that is missing or cannot be understood counts as never tried."""
    try:
        kept = json.loads(_path(name).read_text(encoding="utf-8"))
        return Entry(name, int(kept["tries"]), kept["solved"])
    except (OSError, ValueError, KeyError, TypeError):
        return Entry(name)


def record(verdict: Verdict) -> str:
    """Count a try, and the day of the first pass. Returns "" or, if it cannot be kept, why not."""
    if verdict.puzzle not in PUZZLES:
        return ""
    old, path = read(verdict.puzzle), _path(verdict.puzzle)
    solved = old.solved or (date.today().isoformat() if verdict.passed else None)
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({"solved": solved, "tries": old.tries + 1}), encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        return (
            f"The board was not updated: {path.parent}: {error.strerror}. Set AIINFRA_DATA to a folder you can write."
        )
    return ""


def sheet_path(sheet: int) -> Path:
    """The notebook of a sheet."""
    slug = SHEETS[sheet].lower().replace(" ", "_")
    return Path(__file__).parent / "sheets" / f"{sheet}_{slug}.ipynb"


def _path(name: str) -> Path:
    return data_dir() / "puzzles" / f"{name}.json"
