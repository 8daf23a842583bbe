"""The whole course: its pages in order, and how far the reader is.

    ‹ 01 · Fit a line      the whole course      09 · Triton puzzles ›      links under each title
    progress()             one row a page, one mark an exercise: ✓ solved  ✗ tried  ○ open
    progress("08")         that page alone

What the course consists of is read from the notebooks themselves: the title from the first cell, the
exercises from the cells' tags. No judge is loaded. The sheets of puzzles are parts of the course, too: their
package, which this one does not know, hands its own to `progress(also=…)`.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aiinfra.lab import store
from aiinfra.lab.markup import SIGNS, TONES, Rich, ink
from aiinfra.lab.source import ROOT
from aiinfra.lab.store import PASSED, WRONG

NOTEBOOKS = ROOT / "notebooks"
_TAG = "exercise:"
_TONES = {PASSED: "good", WRONG: "bad", "": "calm"}
_CELL = '<td style="text-align:left">'


@dataclass(frozen=True)
class Part:
    """A page or a sheet: its number and title, where it lies, and {exercise: "passed" | "wrong" | ""}."""

    number: str
    title: str
    file: str
    marks: dict[str, str]

    @property
    def name(self) -> str:
        """For instance: 08 · GPU programming."""
        return f"{self.number} · {self.title}"

    @property
    def link(self) -> str:
        """The name as a link in Markdown."""
        return f"[{self.name}]({self.file})"

    @property
    def solved(self) -> int:
        """How many exercises are solved."""
        return list(self.marks.values()).count(PASSED)

    @property
    def score(self) -> str:
        """For instance: 2 of 5 exercises solved."""
        return _score(self.solved, len(self.marks))

    def signs(self) -> str:
        """A sign and a short name for each exercise."""
        signs = []
        for exercise, mark in self.marks.items():
            signs.append(f"{sign(mark)} {_short(exercise)}")
        return "  ".join(signs)

    def html(self) -> str:
        """A row of a table: the link, and the signs in colour."""
        signs = []
        for exercise, mark in self.marks.items():
            colour = ink(TONES[_TONES[mark]])
            signs.append(f'<span style="color:{colour}">{sign(mark)}</span> {_short(exercise)}')
        link = f'<a href="{self.file}">{self.name}</a>'
        return f"<tr>{_CELL}{link}</td>{_CELL}{' &emsp; '.join(signs)}</td></tr>"


def sign(mark: str) -> str:
    """✓ solved, ✗ tried, ○ open."""
    return SIGNS[_TONES[mark]]


def _score(solved: int, of: int) -> str:
    return f"{solved} of {of} exercises solved"


def _short(exercise: str) -> str:
    """`08.order` without its page."""
    return exercise.split(".", 1)[-1]


@dataclass(frozen=True, repr=False)
class Course(Rich):
    """The parts, in order; shows itself as a table with a link and the marks of each."""

    parts: tuple[Part, ...]
    tone = "note"

    @property
    def rows(self) -> tuple[tuple[str, dict[str, str]], ...]:
        """(number, marks) of every part."""
        return tuple((part.number, part.marks) for part in self.parts)

    @property
    def head(self) -> str:
        """The first line."""
        solved = sum(part.solved for part in self.parts)
        exercises = sum(len(part.marks) for part in self.parts)
        return _score(solved, exercises)

    @property
    def body(self) -> str:
        """A line a part."""
        lines = [f"\n{part.name}  {part.signs()}" for part in self.parts]
        return "".join(lines)

    def _repr_html_(self) -> str:
        rows = "".join(part.html() for part in self.parts)
        return f"<b>{self.head}</b><table>{rows}</table>"

    def _repr_markdown_(self) -> str:
        lines = [f"- {part.link} {part.signs()}" for part in self.parts]
        return "\n".join([f"**{self.head}**", "", *lines])


def files() -> list[Path]:
    """The notebooks of the course, in order."""
    return sorted(NOTEBOOKS.glob("[0-9]*_*.ipynb"))


def _number(path: Path) -> str:
    """08, or 10b: what stands before the first underscore."""
    return path.stem.split("_")[0]


def read(path: Path) -> Part:
    """A notebook as a part of the course, with the reader's marks."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    heading = "".join(cells[0]["source"]).splitlines()[0]
    number, title = heading.removeprefix("# ").split(" · ", 1)
    tags = [tag for cell in cells for tag in cell["metadata"].get("tags", [])]
    marks = {}
    for tag in tags:
        if tag.startswith(_TAG):
            exercise = tag.removeprefix(_TAG)
            marks[exercise] = store.read("exercises", exercise).get("status", "")
    return Part(number=number, title=title, file=path.name, marks=marks)


def page(number: str) -> Part:
    """The page of that number. Raises ValueError if it does not exist."""
    for path in files():
        if _number(path) == number:
            return read(path)
    known = ", ".join(map(_number, files()))
    raise ValueError(f"there is no page {number!r}. There are: {known}.")


def pages() -> list[Part]:
    """All pages that are written, in order."""
    return [read(path) for path in files()]


def progress(number: str | None = None, also: Iterable[Part] = ()) -> Course:
    """The reader's progress in the whole course, or on one page: progress("01").

    `also` are parts that lie elsewhere, such as the puzzles' sheets. Raises ValueError for a page that is not
    there.
    """
    if number is None:
        return Course((*pages(), *also))
    return Course((page(number),))


def links(number: str, among: Sequence[Part]) -> str:
    """The line under a page's title: the page before, the whole course, its words, the page after; in
    Markdown."""
    at = [part.number for part in among].index(number)
    line = ["[the whole course](../README.md#the-course)", "[glossary](glossary.md)"]
    if at > 0:
        line.insert(0, "‹ " + among[at - 1].link)
    if at + 1 < len(among):
        line.append(among[at + 1].link + " ›")
    return " &emsp; ".join(line)
