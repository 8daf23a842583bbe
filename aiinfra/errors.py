"""Errors that help: the value, the limit, the remedy, and the nearest thing that does exist."""

import difflib
import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import dataclass_transform


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the closest known name, or an empty string."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


@dataclass_transform(frozen_default=True)
def config(cls: type) -> type:
    """A frozen dataclass whose constructor names the nearest key when it is given an unknown one."""
    cls = dataclass(frozen=True)(cls)
    known = [f.name for f in fields(cls) if f.init]
    init = cls.__init__

    @functools.wraps(init)
    def strict_init(self, *args, **kwargs):
        for key in kwargs:
            if key not in known:
                raise TypeError(f"{cls.__name__} has no key {key!r}.{nearest(key, known)} "
                                f"Known keys: {', '.join(known)}.")
        init(self, *args, **kwargs)

    cls.__init__ = strict_init
    return cls


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
