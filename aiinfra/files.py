"""Files that are whole or not there: written beside their place under a name of their own, then moved.

Invariant: a reader sees the old content or the new one, never a part of either, and two writers of a file
never share a temporary one; a folder has one writer at a time. This is the only place that does so: progress,
measured rows, downloads and checkpoints come here.
"""

import glob
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aiinfra.errors import LoadError

_ASIDE = ".old.part"          # ends the name of a folder that has made room for the new one


def replace_whole(path: str | Path, write: Callable[[Path], object]) -> None:
    """Have `write(temporary)` make the file, then move it to `path`, whose folder is made if it is absent.

    The move is atomic on one file system. If `write` raises, nothing at `path` has changed and nothing is
    left beside it. Raises what `write` raises, and OSError if the folder cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        temporary.chmod(0o666 & ~_umask())       # mkstemp's files are for nobody else: give the usual rights
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_folder(path: str | Path, write: Callable[[Path], object]) -> None:
    """Have `write(temporary)` fill an empty folder, then move it to `path`: whole, or not there.

    One that stands there is moved aside first, comes back if the new one cannot be moved in, and is removed
    at the end. A process killed between the two moves leaves none at `path`: the next call begins with
    `sweep`, which brings the old one back. So a folder has one writer at a time: a second one's work would be
    swept away. Raises as `replace_whole` does.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    try:
        temporary.chmod(0o777 & ~_umask())
        write(temporary)
        if path.exists():
            path.rename(temporary.with_suffix(_ASIDE))
        temporary.rename(path)
    finally:
        sweep(path)


def sweep(path: str | Path) -> None:
    """Remove what writers of `path` that were killed have left beside it. If a folder was moved aside and
    none has taken its place, it goes back there. Nobody may be writing `path` meanwhile."""
    path = Path(path)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        if left.name.endswith(_ASIDE) and not path.exists():
            left.rename(path)
        elif left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _umask() -> int:
    """The rights that this process takes from new files. It can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    replace_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a model's folder. Raises LoadError naming folder and file."""
    path = path.absolute()               # not resolved: a link of the Hub's cache leads to a nameless file
    name = f"{path.parent.name}/{path.name}"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LoadError(f"{path.parent.name} has no {path.name}: it is not a Hugging Face model "
                        "folder.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise LoadError(f"{name} is not valid JSON in UTF-8 ({error}).") from error
    if not isinstance(content, dict):
        raise LoadError(f"{name} holds a {type(content).__name__}; an object is expected.")
    return content


def write_json(path: str | Path, content: dict[str, Any]) -> None:
    """Write a JSON object that people can read, whole or not at all."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def save_json(rows: Sequence[Any], settings: dict[str, Any], path: str | Path) -> None:
    """Write measured rows (dataclasses) and how they were measured, whole or not at all."""
    content = {"settings": settings, "rows": [asdict(row) for row in rows]}
    write_json(path, content)
