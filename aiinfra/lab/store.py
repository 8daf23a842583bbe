"""The reader's own records: guesses, solved exercises, hints seen. They outlive a notebook's reset.

    <data folder>/lab/guesses/01.rate.json          one record, one file:
    <data folder>/lab/exercises/01.shards.json      no lock is needed and none can be lost
    <data folder>/lab/hints/01.shards.json

Invariant: a file is either the old record or the new one, never half of either (it is
written beside its place and moved there). A damaged file counts as absent.
Used by every notebook; see `aiinfra.device.data_dir` for the folder.
"""

import json
import os
import re
from pathlib import Path

from aiinfra.environment import data_dir

KINDS = ("guesses", "exercises", "hints")


def path(kind: str, name: str) -> Path:
    """The file of one record. Raises ValueError for a name that is no plain word such as 01.rate."""
    if kind not in KINDS or not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"{kind}/{name!r} cannot name a record: use letters, digits, '_', '.' and '-', "
                         f"and one of {', '.join(KINDS)}.")
    return data_dir() / "lab" / kind / f"{name}.json"


def read(kind: str, name: str) -> dict:
    """The record, or {} if there is none that can be read."""
    try:
        record = json.loads(path(kind, name).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return record if isinstance(record, dict) else {}


def write(kind: str, name: str, record: dict) -> str:
    """Keep the record, atomically. Returns "" or, if the folder cannot be written, why not."""
    target = path(kind, name)
    part = target.with_suffix(f".{os.getpid()}.part")     # two kernels never share one
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(record), encoding="utf-8")
        os.replace(part, target)
    except OSError as error:
        return (f"Not saved: {error.strerror or error} ({target.parent}). "
                "Set AIINFRA_DATA to a folder that you can write.")
    return ""
