"""The board: what is solved, kept in the user's own data folder, one small file for each puzzle.

    <data folder>/lab/puzzles/online_softmax.json
    {"status": "passed", "tries": 3, "passed_on": "2026-01-31"}

A sheet can be reset or deleted; the board stays. As each puzzle has its own file, two notebooks at
once lose nothing. Who solved puzzles before the files stood beside those of the exercises loses
nothing either: the old file counts until there is a new one.
"""

import os
from dataclasses import dataclass

from aiinfra.environment import data_dir
from aiinfra.errors import plural
from aiinfra.lab import store
from aiinfra.lab.course import Course, Part, sign
from aiinfra.lab.markup import LOOKS
from puzzles.catalogue import PUZZLES, SHEETS, sheet_path
from puzzles.judge.verdict import Verdict

_KIND = "puzzles"


@dataclass(frozen=True)
class Entry:
    """One puzzle on the board: "passed", "wrong" or "" for one that was not tried, and the date of the
    first pass.
    """

    name: str
    status: str = ""
    tries: int = 0
    passed_on: str | None = None

    @property
    def story(self) -> str:
        """For instance: solved 2026-01-31, 3 attempts."""
        parts = []
        if self.passed_on:
            parts.append(f"solved {self.passed_on}")
        if self.tries:
            parts.append(plural(self.tries, "attempt"))
        return ", ".join(parts)


@dataclass(frozen=True, repr=False)
class SheetsBoard(Course):
    """The sheets, in order; as text it is also the list of all puzzles, with their titles and times."""

    entries: tuple[Entry, ...] = ()

    @property
    def solved(self) -> int:
        """How many puzzles are solved."""
        return sum(part.solved for part in self.parts)

    @property
    def body(self) -> str:
        """What stands under the first line."""
        lines = []
        for sheet, title in SHEETS.items():
            lines.append(f"\n\nsheet {sheet}: {title}")
            lines += [_line(entry) for entry in self.entries if PUZZLES[entry.name].sheet == sheet]
        return "".join(lines)


    def _repr_html_(self) -> str:
        return LOOKS + super()._repr_html_()


def _line(entry: Entry) -> str:
    puzzle = PUZZLES[entry.name]
    what = f"{sign(entry.status)} {entry.name:<24} {puzzle.title:<52}"
    line = f"  {what} {puzzle.minutes:>3} min  {entry.story}"
    return f"\n{line.rstrip()}"


def progress() -> SheetsBoard:
    """The board as it stands."""
    entries = tuple(read(name) for name in PUZZLES)
    return SheetsBoard(tuple(_part(sheet, entries) for sheet in SHEETS), entries)


def _part(sheet: int, entries: tuple[Entry, ...]) -> Part:
    """A sheet as a part of the course; its link leads there from the notebook that is open."""
    marks = {entry.name: entry.status for entry in entries if PUZZLES[entry.name].sheet == sheet}
    return Part(number=str(sheet), title=SHEETS[sheet], file=os.path.relpath(sheet_path(sheet)), marks=marks)


def read(name: str) -> Entry:
    """A puzzle's entry; a file that is missing or cannot be understood counts as never tried."""
    kept = store.read(_KIND, name) or _from_before(name)
    try:
        return Entry(name=name, status=kept["status"], tries=int(kept["tries"]), passed_on=kept["passed_on"])
    except (ValueError, KeyError, TypeError):
        return Entry(name)


def record(verdict: Verdict) -> str:
    """Count a try, and the day of the first pass. Returns "" or, if it cannot be kept, why not."""
    if verdict.puzzle not in PUZZLES:
        return ""
    before = _from_before(verdict.puzzle)
    return store.count_try(_KIND, verdict.puzzle, verdict.passed, before=before)


def _from_before(name: str) -> dict:
    """The record in the place and the form of before: puzzles/<name>.json with {"solved": date or null,
    "tries": n}.
    """
    try:
        old = store.read_file(data_dir() / "puzzles" / f"{name}.json")
    except OSError:                                       # an account without a home folder
        return {}
    if not old.get("tries"):
        return {}
    solved = old.get("solved")
    return {"status": store.PASSED if solved else store.WRONG, "tries": old["tries"], "passed_on": solved}
