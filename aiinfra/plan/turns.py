"""The requests of a trace file, for a simulation: a JSON object a line, as `bench/trace.py` reads it.

    {"arrival_seconds": 0.4, "conversation": 7, "prompt_tokens": 57, "output_tokens": 80}

Ids that somebody gives as "prompt" are only counted. Without a conversation, a request begins like no other.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiinfra.errors import nearest
from aiinfra.plan.traffic import LONGEST, Turn

_KEYS = ("prompt", "prompt_tokens", "output_tokens", "arrival_seconds", "conversation")


def read_turns(path: Path) -> list[Turn]:
    """In order of arrival. Raises ValueError, naming the line, for a file that cannot be read or a line that
    is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the trace {path} cannot be read: {error}.") from error
    given = [
        _checked(line, f"{path}, line {number}")
        for number, line in enumerate(text.splitlines(), 1) if line.strip()
    ]
    if not given:
        raise ValueError(f"{path} has no requests: a trace is one JSON object a line.")
    own = 1 + max((line["conversation"] for line in given if "conversation" in line), default=-1)
    turns = [_turn(line, own + place) for place, line in enumerate(given)]
    return sorted(turns, key=lambda turn: turn.arrival_seconds)


def _turn(line: dict[str, Any], own: int) -> Turn:
    return Turn(
        arrival_seconds=float(line.get("arrival_seconds", 0)),
        conversation=line.get("conversation", own),
        prompt_tokens=line.get("prompt_tokens") or len(line["prompt"]),
        output_tokens=line["output_tokens"])


def read_line(text: str, where: str) -> dict[str, Any]:
    """The object of one line of a trace file, whose keys are known. `where` begins its error messages."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {error}.") from error
    if not isinstance(line, dict):
        raise ValueError(f"{where} is not an object. Write {{\"prompt_tokens\": 57, \"output_tokens\": 80}}.")
    for key in line:
        if key not in _KEYS:
            raise ValueError(f"{where} has the unknown key {key!r}.{nearest(key, _KEYS)} Known: "
                             f"{', '.join(_KEYS)}.")
    return line


def _checked(text: str, where: str) -> dict[str, Any]:
    line = read_line(text, where)
    for problem in _problems(line):
        raise ValueError(f"{where}: {problem}")
    return line


def _problems(line: dict[str, Any]) -> Iterator[str]:
    if ("prompt" in line) == ("prompt_tokens" in line) or "output_tokens" not in line:
        yield "it needs output_tokens, and either prompt_tokens (how many) or prompt (token ids)."
    prompt = line.get("prompt", [0])
    if not isinstance(prompt, list) or not prompt:
        yield f"prompt is {prompt!r}; it must be a list of token ids, at least one."
    for key, least in (("prompt_tokens", 1), ("output_tokens", 1), ("conversation", 0)):
        value = line.get(key, least)
        if type(value) is not int or value < least:                  # JSON's true is no number
            yield f"{key} is {value!r}; it must be a whole number of at least {least}."
    arrival = line.get("arrival_seconds", 0)
    if type(arrival) not in (int, float) or not 0 <= arrival <= LONGEST:             # false for NaN, too
        yield f"arrival_seconds is {arrival!r}; it must be a number from 0 to {LONGEST:,}, a year."
