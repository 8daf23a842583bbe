"""Errors that help: the value, the limit, the remedy, and the nearest thing that does exist.

The words that all messages share are here too: a nearest name, a count and its noun.
"""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_LONGEST = 200                            # characters of a name that are compared: it may be a stranger's


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the closest known name, or an empty string."""
    close = nearest_name(name, known)
    return "" if close is None else f" Did you mean {close!r}?"


def nearest_name(name: str, known: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The known name that is most like `name`, or None if none is like it. cutoff: how like, 0 (any) to 1."""
    close = difflib.get_close_matches(str(name)[:_LONGEST], list(known), n=1, cutoff=cutoff)
    return close[0] if close else None


def plural(count: int, noun: str) -> str:
    """`1 program`, `2 programs`, `1,024 programs`, `0 programs`: a count and its noun, which takes an s."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


class LoadError(ValueError):
    """A model's files are missing, damaged, or of a kind that is not supported. Names the file."""


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Turn what goes wrong with a stranger's values (a missing key, a string for a number) into a LoadError
    that names `source`."""
    try:
        yield
    except LoadError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise LoadError(f"{source} is damaged, or of a form that is not known "
                        f"({type(error).__name__}: {error}).") from error
