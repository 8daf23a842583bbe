"""Errors that help: the value, the limit, the remedy, and the nearest thing that does exist."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the closest known name, or an empty string."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


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
