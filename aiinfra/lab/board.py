"""hint() and progress(): help in three steps, and the board of what is solved.

    hint("01.shards")     direction ──► idea ──► nearly code        each call one step further
    progress()            one row a notebook, one mark an exercise: ✓ solved  ✗ tried  ○ open
"""

from dataclasses import dataclass

from aiinfra.lab import exercise as ex
from aiinfra.lab import store
from aiinfra.lab.markup import TONES, Rich
from aiinfra.lab.verdict import PASSED, WRONG


@dataclass(frozen=True, repr=False)
class Hint(Rich):
    """One hint: `level` of 3, and its text."""

    name: str
    level: int
    text: str
    tone = "note"

    @property
    def head(self) -> str:
        """The first line."""
        return f"Hint {self.level} of 3"

    @property
    def body(self) -> str:
        """What stands under it."""
        return self.text

    @property
    def foot(self) -> str:
        """A last line, or nothing."""
        return "" if self.level < 3 else "That was the last one. A full answer is in notebooks/solutions/."


def hint(name: str, level: int | None = None) -> Hint:
    """The next hint for an exercise, or that of `level` 1, 2 or 3. After the third, the third again.

    Raises ValueError for a name or a level that does not exist.
    """
    hints = ex.find(name).hints
    seen = int(store.read("hints", name).get("seen", 0))
    if level is None:
        level = min(seen + 1, 3)
    if level not in (1, 2, 3):
        raise ValueError(f"level={level!r}: there are hints 1, 2 and 3.")
    store.write("hints", name, {"seen": max(seen, level)})
    return Hint(name, level, hints[level - 1])


@dataclass(frozen=True, repr=False)
class Board(Rich):
    """What is solved: `rows` of (notebook number, {exercise: "passed" | "wrong" | ""})."""

    rows: tuple[tuple[str, dict[str, str]], ...]
    tone = "note"

    @property
    def head(self) -> str:
        """The first line."""
        marks = [mark for _, row in self.rows for mark in row.values()]
        return f"{marks.count(PASSED)} of {len(marks)} exercises solved"

    @property
    def body(self) -> str:
        """What stands under it."""
        return "".join(f"\n{number}  " + "  ".join(f"{_sign(mark)} {name.split('.', 1)[1]}" for name, mark in row.items())
                       for number, row in self.rows)

    def _repr_html_(self) -> str:
        lines = "".join(f'<tr><td style="text-align:left"><b>{number}</b></td><td style="text-align:left">'
                        + " &emsp; ".join(_mark(name, mark) for name, mark in row.items()) + "</td></tr>"
                        for number, row in self.rows)
        return f"<b>{self.head}</b><table>{lines}</table>"

    def _repr_markdown_(self) -> str:
        return f"**{self.head}**\n\n" + "\n".join(f"- {line}" for line in self.body.splitlines() if line)


def _sign(mark: str) -> str:
    return {PASSED: "✓", WRONG: "✗"}.get(mark, "○")


def _mark(name: str, mark: str) -> str:
    colour = TONES[{PASSED: "good", WRONG: "bad"}.get(mark, "calm")]
    return f'<span style="color:{colour}">{_sign(mark)}</span> {name.split(".", 1)[1]}'


def progress(number: str | None = None) -> Board:
    """The board of all notebooks, or of one: progress("01"). Reads every exercise's record."""
    wanted = ex.numbers() if number is None else [number]
    return Board(tuple((one, {name: store.read("exercises", name).get("status", "") for name in ex.load(one)})
                       for one in wanted))
