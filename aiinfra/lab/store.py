"""The reader's own records: guesses, solved exercises, hints seen. They outlive a notebook's reset.

    <data folder>/lab/guesses/01.rate.json          one record, one file:
    <data folder>/lab/exercises/01.shards.json      no lock is needed and none can be lost
    <data folder>/lab/hints/01.shards.json

Invariant: a file is either the old record or the new one, never half of either. A damaged file
counts as absent. Used by every notebook; see `aiinfra.environment.data_dir` for the folder.
"""

import json
import re
from datetime import date
from pathlib import Path

from aiinfra import files
from aiinfra.environment import data_dir

PASSED, WRONG = "passed", "wrong"           # the status of an exercise that was tried


def path(kind: str, name: str) -> Path:
    """The file of one record. Raises ValueError for a kind or name that is no plain word such as 01.rate."""
    if not re.fullmatch(r"[a-z]+", kind) or not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"{kind}/{name!r} cannot name a record: use letters, digits, '_', '.' and '-', "
                         "and a kind such as guesses.")
    return data_dir() / "lab" / kind / f"{name}.json"


def read(kind: str, name: str) -> dict:
    """The record, or {} if there is none that can be read."""
    try:
        return read_file(path(kind, name))
    except OSError:                       # an account without a home folder; `write` says so
        return {}


def read_file(file: Path) -> dict:
    """The JSON object in a file; {} if there is none that can be read."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    if not isinstance(record, dict):
        return {}
    return record


def write(kind: str, name: str, record: dict) -> str:
    """Keep the record, atomically. Returns "" or, if the folder cannot be written, why not."""
    try:
        target = path(kind, name)
    except OSError as error:
        return f"Not saved: {error}"
    try:
        files.write_text(target, json.dumps(record))
    except OSError as error:
        return (f"Not saved: {error.strerror or error} ({target.parent}). "
                "Set AIINFRA_DATA to a folder that you can write.")
    return ""


def count_try(kind: str, name: str, passed: bool, before: dict | None = None) -> str:
    """Count a try, and keep the day of the first pass; a pass is never taken back. Returns what `write`
    returns.

    `before` is the record until now, where it does not stand in the store yet.
    """
    kept = read(kind, name) or before or {}
    status = PASSED if passed else WRONG
    first_pass = kept.get("passed_on")
    if first_pass is None and passed:
        first_pass = date.today().isoformat()
    if kept.get("status") == PASSED:
        status = PASSED
    tries = int(kept.get("tries", 0)) + 1
    return write(kind, name, {"status": status, "tries": tries, "passed_on": first_pass})
