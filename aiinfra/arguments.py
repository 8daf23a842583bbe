"""What is typed on a command line: a value that is wrong by itself is refused while the line is read.

    add("--port", type=whole(0, 65_535))    argument --port: 'x'; it must be a whole number from 0 to 65,535.
    add("--save", type=file_to_write())     argument --save: 'rows/' is a folder; name a file in it.

So a file is refused before minutes are measured, and not after them. Each function makes a reader for
argparse, which says the option's name and ends with status 2.
"""

import os
from argparse import ArgumentTypeError
from collections.abc import Callable
from math import inf
from pathlib import Path

_LONGEST_QUOTE = 60                       # characters of what was typed


def whole(least: int = 1, most: int | None = None) -> Callable[[str], int]:
    """Reads a whole number from `least` to `most`, both included; most=None: as large as you like."""
    limit = f"of at least {least:,}"
    if most is not None:
        limit = f"from {least:,} to {most:,}"

    def read(text: str) -> int:
        value = _read(int, text)
        if value is None or value < least or (most is not None and value > most):
            raise ArgumentTypeError(f"{_quoted(text)}; it must be a whole number {limit}.")
        return value
    return read


def number(*, above: float = -inf, least: float = -inf, most: float = inf,
           endless: bool = False) -> Callable[[str], float]:
    """Reads a number within these limits; infinity only where `endless` allows it, NaN never."""
    limits = _limits(above, least, most)

    def read(text: str) -> float:
        value = _read(float, text)
        if value is None or not (above < value and least <= value <= most):          # NaN is not, either
            raise ArgumentTypeError(f"{_quoted(text)}; it must be a number{limits}.")
        if value == inf and not endless:
            raise ArgumentTypeError(f"{_quoted(text)}; it must be a number{limits}, and finite.")
        return value
    return read


def file_to_read(text: str) -> Path:
    """A file that is there."""
    path = Path(text)
    if path.is_dir():
        raise ArgumentTypeError(f"{_quoted(text)} is a folder; name a file.")
    if not path.exists():
        raise ArgumentTypeError(f"{_quoted(text)} does not exist; name a file that does.")
    return path


def file_to_write(*endings: str) -> Callable[[str], Path]:
    """Reads the name of a file that can be written: its folder is there, or can be made. endings: those that
    it may have (none: any)."""
    def read(text: str) -> Path:
        path = Path(text)
        if path.is_dir():
            raise ArgumentTypeError(f"{_quoted(text)} is a folder; name a file in it.")
        if endings and path.suffix.lower() not in endings:
            raise ArgumentTypeError(f"{_quoted(text)}; its name must end in {', '.join(endings)}.")
        _check_place(text, path)
        return path
    return read


def folder_to_write(text: str) -> Path:
    """A folder that is there, or can be made. Not the current one by an empty name: nobody means that."""
    if not text.strip():
        raise ArgumentTypeError(f"{_quoted(text)} is no name; name a folder (. is the current one).")
    _check_place(text, Path(text) / "any file")
    return Path(text)


def _check_place(text: str, path: Path) -> None:
    """Raise ArgumentTypeError, quoting `text`, unless a file can be written at `path`."""
    folder = _nearest_above(path)
    if not folder.is_dir():
        raise ArgumentTypeError(f"{_quoted(text)}: {folder} is no folder. Choose another place.")
    if not os.access(folder, os.W_OK):
        raise ArgumentTypeError(f"{_quoted(text)}: {folder} may not be written. Choose another place.")


def _nearest_above(path: Path) -> Path:
    """The folder of `path`, or the nearest above it that is there."""
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    return folder


def _read(kind: Callable[[str], float], text: str) -> float | None:
    """The number, or None if it is none."""
    try:
        return kind(text)
    except ValueError:
        return None


def _limits(above: float, least: float, most: float) -> str:
    said = []
    if above > -inf:
        said.append(f"above {above:g}")
    if least > -inf:
        said.append(f"of at least {least:g}")
    if most < inf:
        said.append(f"at most {most:,g}")
    return " " + " and ".join(said) if said else ""


def _quoted(text: str) -> str:
    if len(text) > _LONGEST_QUOTE:
        text = f"{text[:_LONGEST_QUOTE]}…"
    return repr(text)
