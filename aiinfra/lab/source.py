"""show_source(): open the real file; data_file() and recorded(): find the small data.

    show_source(torch.nn.Linear.forward)   ->   torch/nn/modules/linear.py, lines 124-128
    show_source(data_dir)                  ->   aiinfra/environment.py (a link), lines 24-29
    recorded("kernels")                    ->   data/recorded/kernels*.json: rows and settings, or None

Paths are always relative (to this project, or to the folder that holds the package), so a
page made on one machine reads the same on another.
"""

import inspect
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import aiinfra
from aiinfra.errors import nearest_name

ROOT = Path(aiinfra.__path__[0]).resolve().parent
DATA = ROOT / "data"
RECORDED = DATA / "recorded"


def data_file(name: str) -> Path:
    """The path of a file in data/. Raises FileNotFoundError naming the nearest one that exists."""
    path = DATA / name
    if path.exists():
        return path
    files = [file for file in DATA.rglob("*") if file.is_file()]
    known = sorted(file.relative_to(DATA).as_posix() for file in files)
    message = f"data/{name} does not exist."
    if near := nearest_name(name, known, cutoff=0.0):
        message += f" The nearest is data/{near}."
    raise FileNotFoundError(message)


class Recorded(NamedTuple):
    """What a named GPU measured on a named date: a dict a row, and how it was measured."""

    rows: list[dict[str, Any]]
    settings: dict[str, Any]


def recorded(name: str) -> Recorded | None:
    """The results of one benchmark, recorded("kernels"), from data/recorded/kernels*.json; or None.

    `save_json` writes such files: see the folder's README. Rows of several files stand one after another, and
    each carries the `device` and `date` of its file's settings; the settings are those of the last file.
    """
    rows, settings = [], None
    for path in sorted(RECORDED.glob(f"{name}*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        settings = content["settings"]
        origin = {key: settings[key] for key in ("device", "date") if key in settings}
        rows += [{**origin, **row} for row in content["rows"]]
    if settings is None:
        return None
    return Recorded(rows, settings)


@dataclass(frozen=True, repr=False)
class Excerpt:
    """A piece of a real file: its text, relative path and first line number."""

    text: str
    path: str
    first: int
    ours: bool

    @property
    def title(self) -> str:
        """Path and lines, for the heading."""
        return f"{self.path}, {self._lines}"

    @property
    def _lines(self) -> str:
        last = self.first + self.text.count("\n")
        return f"lines {self.first}–{last}"

    def _repr_markdown_(self) -> str:
        name = f"`{self.path}`"
        if self.ours:
            name = f"[{self.path}](../{self.path})"
        return f"{name}, {self._lines}\n\n```python\n{self.text}\n```"

    def __repr__(self) -> str:
        return f"# {self.title}\n{self.text}"


def show_source(thing: Any, around: str | None = None, context: int | tuple[int, int] = 3) -> Excerpt:
    """The source of a function, class, module or "path/in/this/project.py"; last line of a cell.

    `around` keeps only the first line that contains it and `context` lines on both sides
    (or (before, after)).
    Raises ValueError if the text is not there, FileNotFoundError for a path that does not exist.
    """
    path, lines, first = _open(thing)
    lines = [line.rstrip() for line in lines]
    if around is not None:
        lines, first = _window(lines, first, around, context)
    name, ours = _relative(path.resolve())
    text = "\n".join(_dedent(lines))
    return Excerpt(text=text, path=name, first=first, ours=ours)


def _open(thing: Any) -> tuple[Path, list[str], int]:
    """The file, the lines, and the first line's number."""
    if isinstance(thing, str):
        path = ROOT / thing
        return path, path.read_text(encoding="utf-8").splitlines(), 1
    thing = getattr(thing, "fn", thing)                          # a Triton kernel keeps its function in .fn
    thing = inspect.unwrap(thing)
    lines, first = inspect.getsourcelines(thing)
    return Path(inspect.getsourcefile(thing)), lines, max(first, 1)


def _window(lines: list[str], first: int, around: str,
            context: int | tuple[int, int]) -> tuple[list[str], int]:
    hits = [i for i, line in enumerate(lines) if around in line]
    if not hits:
        raise ValueError(f"{around!r} is in none of the {len(lines)} lines: "
                         "look at show_source without around=.")
    before = after = context
    if not isinstance(context, int):
        before, after = context
    start = max(0, hits[0] - before)
    end = hits[0] + after + 1
    return lines[start:end], first + start


def _dedent(lines: list[str]) -> list[str]:
    written = [line for line in lines if line.strip()]
    indent = min((len(line) - len(line.lstrip()) for line in written), default=0)
    return [line[indent:] for line in lines]


def _relative(path: Path) -> tuple[str, bool]:
    """The path as it reads on any machine, and whether the file is this project's."""
    if path.is_relative_to(ROOT) and "site-packages" not in path.parts:
        return path.relative_to(ROOT).as_posix(), True
    roots = [Path(entry).resolve() for entry in sys.path if entry]
    inside = [path.relative_to(root).as_posix() for root in roots if path.is_relative_to(root)]
    return min(inside, key=len, default=path.name), False
