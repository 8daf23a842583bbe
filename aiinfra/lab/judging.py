"""What judges say again and again: is this the number, are these two things, is it a mistake that we know?

    got = answered(fit(x, y))                      # `...` is not solved yet
    pair(got, "return two numbers: (a, b).")
    explain(got, {2 * want: "twice too large: …"}, unless=want)

All of them raise what a judge raises: see exercise.py. Used by notebooks/exercises.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from aiinfra.lab.exercise import Unsolved, Wrong, close, require


def answered(got: Any) -> Any:
    """What the learner's function returned. Raises Unsolved if that is `...`."""
    if got is Ellipsis:
        raise Unsolved
    return got


def same(got: Any, want: Any, rtol: float = 1e-5, atol: float = 1e-8) -> bool:
    """True if `close` would let it pass."""
    try:
        close(got, want, "", rtol=rtol, atol=atol)
    except Wrong:
        return False
    return True


def several(got: Any, count: int, message: str) -> None:
    """Raise Wrong(message) unless `got` is a tuple or a list of `count` things."""
    require(isinstance(got, tuple | list) and len(got) == count, message)


def pair(got: Any, message: str) -> None:
    """Raise Wrong(message) unless `got` is a tuple or a list of two things."""
    several(got, 2, message)


def explain(got: Any, mistakes: Mapping[Any, str] | Iterable[tuple[Any, str]], unless: Any = None,
            rtol: float = 1e-5) -> None:
    """Raise Wrong with the message of the first known mistake that gives `got`, but not if `got` is right, too."""
    if unless is not None and same(got, unless, rtol):
        return
    if isinstance(mistakes, Mapping):
        mistakes = mistakes.items()
    for value, message in mistakes:
        if same(got, value, rtol):
            raise Wrong(message)
