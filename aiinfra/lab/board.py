"""progress(): the board of what is solved.

    progress()            one row a notebook, one mark an exercise: ✓ solved  ✗ tried  ○ open
"""

from dataclasses import dataclass

from aiinfra.lab import exercise as ex
from aiinfra.lab import store
from aiinfra.lab.markup import SIGNS, TONES, Rich

_TONES = {store.PASSED: "good", store.WRONG: "bad", "": "calm"}
_CELL = '<td style="text-align:left">'


@dataclass(frozen=True, repr=False)
class Board(Rich):
    """What is solved: `rows` of (heading, {exercise: "passed" | "wrong" | ""})."""

    rows: tuple[tuple[str, dict[str, str]], ...]
    tone = "note"

    @property
    def solved(self) -> int:
        """How many exercises are solved."""
        return self._statuses.count(store.PASSED)

    @property
    def head(self) -> str:
        """The first line."""
        return f"{self.solved} of {len(self._statuses)} exercises solved"

    @property
    def body(self) -> str:
        """What stands under it: a line a row."""
        lines = []
        for heading, row in self.rows:
            marks = [f"{sign(status)} {_short(name)}" for name, status in row.items()]
            lines.append(f"\n{heading}  {'  '.join(marks)}")
        return "".join(lines)

    @property
    def _statuses(self) -> list[str]:
        return [status for _, row in self.rows for status in row.values()]

    def _repr_html_(self) -> str:
        lines = []
        for heading, row in self.rows:
            marks = " &emsp; ".join(_mark(name, status) for name, status in row.items())
            lines.append(f"<tr>{_CELL}<b>{heading}</b></td>{_CELL}{marks}</td></tr>")
        return f"<b>{self.head}</b><table>{''.join(lines)}</table>"

    def _repr_markdown_(self) -> str:
        lines = [f"- {line}" for line in self.body.splitlines() if line]
        return "\n".join([f"**{self.head}**", "", *lines])


def sign(status: str) -> str:
    """✓ solved, ✗ tried, ○ open."""
    return SIGNS[_TONES[status]]


def _mark(name: str, status: str) -> str:
    colour = TONES[_TONES[status]]
    return f'<span style="color:{colour}">{sign(status)}</span> {_short(name)}'


def _short(name: str) -> str:
    """An exercise's name without its notebook's number."""
    return name.split(".", 1)[-1]


def progress(number: str | None = None) -> Board:
    """The board of all notebooks, or of one: progress("01"). Reads every exercise's record."""
    numbers = ex.numbers() if number is None else [number]
    rows = []
    for one in numbers:
        row = {name: store.read("exercises", name).get("status", "") for name in ex.load(one)}
        rows.append((one, row))
    return Board(tuple(rows))
