"""show_source(): open the real file, and data_file(): find the small data.

    show_source(torch.nn.Linear.forward)   ->   torch/nn/modules/linear.py, lines 124-128
    show_source(data_dir)                  ->   aiinfra/device.py (a link), lines 92-97

Paths are always relative (to this project, or to the folder that holds the package), so a
page made on one machine reads the same on another.
"""

import difflib
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiinfra

ROOT = Path(aiinfra.__path__[0]).resolve().parent


def data_file(name: str) -> Path:
    """The path of a file in data/. Raises FileNotFoundError naming the nearest one that exists."""
    path = ROOT / "data" / name
    if not path.exists():
        known = sorted(p.relative_to(ROOT / "data").as_posix() for p in (ROOT / "data").rglob("*") if p.is_file())
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        raise FileNotFoundError(f"data/{name} does not exist." + (f" The nearest is data/{near[0]}." if near else ""))
    return path


@dataclass(frozen=True, repr=False)
class Source:
    """A piece of a real file: its text, relative path and first line number."""

    text: str
    path: str
    first: int
    ours: bool

    @property
    def title(self) -> str:
        """Path and lines, for the heading."""
        return f"{self.path}, lines {self.first}–{self.first + self.text.count(chr(10))}"

    def _repr_markdown_(self) -> str:
        name = f"[{self.path}](../{self.path})" if self.ours else f"`{self.path}`"
        return f"{name}{self.title[len(self.path):]}\n\n```python\n{self.text}\n```"

    def __repr__(self) -> str:
        return f"# {self.title}\n{self.text}"


def show_source(thing: Any, around: str | None = None, context: int | tuple[int, int] = 3) -> Source:
    """The source of a function, class, module or "path/in/this/project.py"; last line of a cell.

    `around` keeps only the first line that contains it and `context` lines on both sides
    (or (before, after)).
    Raises ValueError if the text is not there, FileNotFoundError for a path that does not exist.
    """
    if isinstance(thing, str):
        path, lines, first = ROOT / thing, (ROOT / thing).read_text(encoding="utf-8").splitlines(), 1
    else:
        thing = inspect.unwrap(getattr(thing, "fn", thing))       # a Triton kernel keeps its function in .fn
        lines, first = inspect.getsourcelines(thing)
        path, first = Path(inspect.getsourcefile(thing)), max(first, 1)
    lines = [line.rstrip() for line in lines]
    if around is not None:
        lines, first = _window(lines, first, around, context)
    name, ours = _relative(path.resolve())
    return Source("\n".join(_dedent(lines)), name, first, ours)


def _window(lines: list[str], first: int, around: str,
            context: int | tuple[int, int]) -> tuple[list[str], int]:
    hits = [i for i, line in enumerate(lines) if around in line]
    if not hits:
        raise ValueError(f"{around!r} is in none of the {len(lines)} lines: look at show_source without around=.")
    before, after = (context, context) if isinstance(context, int) else context
    start = max(0, hits[0] - before)
    return lines[start:hits[0] + after + 1], first + start


def _dedent(lines: list[str]) -> list[str]:
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return [line[indent:] for line in lines]


def _relative(path: Path) -> tuple[str, bool]:
    if path.is_relative_to(ROOT) and "site-packages" not in path.parts:
        return path.relative_to(ROOT).as_posix(), True
    roots = [Path(entry).resolve() for entry in sys.path if entry]
    inside = [path.relative_to(root).as_posix() for root in roots if path.is_relative_to(root)]
    return (min(inside, key=len) if inside else path.name), False
