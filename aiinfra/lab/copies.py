"""The reader's own copies of the pages: git never sees what they write, and no update loses it.

    notebooks/12_batching.ipynb                as shipped ──lay──►  work/12_batching.ipynb
    puzzles/sheets/1_first_blocks.ipynb                             work/sheets/1_first_blocks.ipynb

    update:  the base (as it was laid) ┐
             the page as shipped now   ├──►  the copy: what the reader wrote, in the page as it is now
             the reader's copy         ┘     and the copy as it was before, in work/.before/

Cells are told apart by their ids, which nbformat keeps. A cell that the reader changed stays as they left it;
if the shipped one has changed too, it comes first and theirs follows. Cells that they added stay behind the
one that they followed. A cell that they deleted comes back.

    python -m aiinfra.lab.copies lay | update          (`make lab` and `make update` do it)
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from aiinfra.errors import plural
from aiinfra.files import write_text

Cell = dict[str, Any]
Book = dict[str, Any]

_LINK = re.compile(r"(?<=\]\()[^)\s#]+")
_BASES = ".laid"
_BEFORE = ".before"
_THEIRS = "**Your version of the cell above**, from before the page was updated:"


def root() -> Path:
    """The workbook's folder: where notebooks/, puzzles/ and work/ stand."""
    return Path(__file__).resolve().parents[2]


def pages(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Each shipped page and its place under work/, in the order of the course; then the sheets."""
    for page in sorted((folder / "notebooks").glob("[0-9]*.ipynb")):
        yield page, Path(page.name)
    for sheet in sorted((folder / "puzzles/sheets").glob("[0-9]*.ipynb")):
        yield sheet, Path("sheets", sheet.name)


def lay(folder: Path) -> list[Path]:
    """Make the copies that are missing; returns their places under work/. Existing ones are not touched."""
    work = folder / "work"
    laid = []
    for page, place in pages(folder):
        if (work / place).exists():
            continue
        text = _text(_shipped(folder, page, place))
        write_text(work / _BASES / place, text)
        write_text(work / place, text)
        laid.append(place)
    return laid


def outdated(folder: Path) -> list[Path]:
    """Copies whose page has changed since they were laid or updated."""
    work = folder / "work"
    laid = [(page, place) for page, place in pages(folder) if (work / place).exists()]
    return [place for page, place in laid if _base(work, place) != _shipped(folder, page, place)]


def update(folder: Path, now: Callable[[], datetime] = datetime.now) -> list[Path]:
    """Bring every outdated copy on; returns their places. Each is kept as it was in work/.before/<time>/
    first.

    Raises ValueError, naming the file and changing nothing of it, for a copy that is no notebook (any more).
    """
    work = folder / "work"
    kept = work / _BEFORE / now().strftime("%Y-%m-%d_%H-%M-%S")
    changed = outdated(folder)
    for page, place in pages(folder):
        if place not in changed:
            continue
        shipped = _shipped(folder, page, place)
        mine = _read(work / place)
        write_text(kept / place, (work / place).read_text(encoding="utf-8"))
        write_text(work / place, _text(merge(_base(work, place), shipped, mine)))
        write_text(work / _BASES / place, _text(shipped))
    return changed


def merge(base: Book | None, shipped: Book, mine: Book) -> Book:
    """The page as shipped now with everything that the reader wrote into `mine`, which began as `base`.

    Without a base, every cell of the reader's that differs from the shipped one counts as theirs.
    """
    before = _by_id(base or shipped)
    now = _by_id(shipped)
    theirs = _by_id(mine)
    cells: list[Cell] = []
    cells += _added(mine, before, now, after=None)
    for key, cell in now.items():
        cells += _merged(cell, before.get(key), theirs.get(key))
        cells += _added(mine, before, now, after=key)
    metadata = dict(shipped["metadata"])
    if "widgets" in mine["metadata"]:
        metadata["widgets"] = mine["metadata"]["widgets"]        # as the reader left the sliders
    return {**shipped, "metadata": metadata, "cells": cells}


def _merged(shipped: Cell, base: Cell | None, mine: Cell | None) -> list[Cell]:
    """One cell of the page as it is to stand in the copy, and the reader's version behind it if both have
    changed."""
    if mine is None:
        return [shipped]
    if _source(mine) == _source(shipped):
        return [mine]                            # with the reader's outputs
    untouched = base is not None and _source(mine) == _source(base)
    if untouched:
        return [shipped]
    page_stands = base is not None and _source(base) == _source(shipped)
    if page_stands:
        return [mine]
    note = {"cell_type": "markdown", "id": f"{mine['id']}-note"[-64:], "metadata": {}, "source": [_THEIRS]}
    return [shipped, note, {**mine, "id": f"{mine['id']}-mine"[-64:]}]


def _added(mine: Book, before: dict[str, Cell], now: dict[str, Cell], after: str | None) -> list[Cell]:
    """Cells of the reader's own whose nearest cell before them that stays is `after` (None: the top)."""
    found = []
    last = None
    for cell in mine["cells"]:
        key = cell["id"]
        if key in now:
            last = key
        elif last == after and _is_own(cell, before.get(key)):
            found.append(cell)
    return found


def _is_own(cell: Cell, base: Cell | None) -> bool:
    """True if the reader wrote this cell, or changed one that the page no longer has."""
    return base is None or _source(cell) != _source(base)


def _by_id(book: Book) -> dict[str, Cell]:
    return {cell["id"]: cell for cell in book["cells"]}


def _source(cell: Cell) -> str:
    return "".join(cell["source"])


def _shipped(folder: Path, page: Path, place: Path) -> Book:
    """The page, with its links as they are from its copy: to copies of pages, and to all other files where
    they are."""
    book = _read(page)
    copies = {shipped: folder / "work" / copy for shipped, copy in pages(folder)}

    def relink(link: re.Match) -> str:
        target = Path(os.path.normpath(page.parent / link.group()))
        if not target.exists():
            return link.group()
        return Path(os.path.relpath(copies.get(target, target), (folder / "work" / place).parent)).as_posix()

    for cell in book["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = _LINK.sub(relink, _source(cell)).splitlines(keepends=True)
    return book


def _base(work: Path, place: Path) -> Book | None:
    path = work / _BASES / place
    return _read(path) if path.exists() else None


def _read(path: Path) -> Book:
    try:
        book = json.loads(path.read_text(encoding="utf-8"))
        for number, cell in enumerate(book["cells"]):
            cell.setdefault("id", f"cell-{number}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a notebook ({error}). "
                         "Move it away and run `make lab`: a fresh copy is laid.") from error
    return book


def _text(book: Book) -> str:
    return json.dumps(book, indent=1, ensure_ascii=False) + "\n"


def main(argv: list[str] | None = None) -> int:
    """The command line; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m aiinfra.lab.copies", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("lay", "update"), help="make missing copies, or bring all on")
    what = parser.parse_args(argv).what
    try:
        return _update() if what == "update" else _lay()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _lay() -> int:
    laid = lay(root())
    if laid:
        print(f"work/: your own copies of {plural(len(laid), 'page')}; git does not see what you write there")
    behind = outdated(root())
    if behind:
        names = ", ".join(map(str, behind))
        print(f"newer versions are here of {names}: `make update` brings your copies on")
    return 0


def _update() -> int:
    changed = update(root())
    lay(root())
    for place in changed:
        print(f"work/{place}: brought on; as it was: work/{_BEFORE}/")
    if not changed:
        print("work/: all copies are up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
