"""What judges say again and again: is this the number, are these two things, is it a mistake that we know?

    got = answered(fit(x, y))                      # `...` is not solved yet
    pair(got, "return two numbers: (a, b).")
    explain(got, {2 * want: "twice too large: …"}, unless=want)

All of them raise what a judge raises: see exercise.py. Used by notebooks/exercises.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

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


@contextmanager
def about(case: str) -> Iterator[None]:
    """What is found wrong inside is told with the case in front: "two tokens: you have 3; 4 is wanted"."""
    try:
        yield
    except Wrong as wrong:
        raise Wrong(f"{case}: {wrong}") from None


def several(got: Any, count: int, message: str) -> None:
    """Raise Wrong(message) unless `got` is a tuple or a list of `count` things."""
    require(isinstance(got, tuple | list) and len(got) == count, message)


def pair(got: Any, message: str) -> None:
    """Raise Wrong(message) unless `got` is a tuple or a list of two things."""
    several(got, 2, message)


def number(got: Any, what: str) -> float:
    """The answer, if it is a number and not True or False. Raises Wrong if not, Unsolved for `...`."""
    got = answered(got)
    is_number = isinstance(got, int | float) and not isinstance(got, bool)
    require(is_number, f"{what}: you returned {got!r}; a number is wanted.")
    return got


def explain(got: Any, mistakes: Mapping[Any, str] | Iterable[tuple[Any, str]], unless: Any = None,
            rtol: float = 1e-5) -> None:
    """Raise Wrong with the message of the first known mistake that gives `got`.

    Not so if `got` is `unless`, the right answer, which a mistake may give as well.
    """
    if unless is not None and same(got, unless, rtol):
        return
    if isinstance(mistakes, Mapping):
        mistakes = mistakes.items()
    for value, message in mistakes:
        if same(got, value, rtol):
            raise Wrong(message)


def is_finite(tensor: Tensor) -> bool:
    """True if no value is NaN or infinite."""
    return bool(torch.isfinite(tensor).all())


class EveryTensor(TorchDispatchMode):
    """While it is entered, `look` is shown each tensor that an operation returns, in autograd's too."""

    def look(self, tensor: Tensor) -> None:
        """Called for each one; a judge says what it looks for."""
        raise NotImplementedError

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        results = out if isinstance(out, tuple | list) else (out,)
        for result in results:
            if isinstance(result, Tensor):
                self.look(result)
        return out


def drawn(seed: int, *shape: int) -> Tensor:
    """Normal numbers in float64, always the same for a seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


class Largest(EveryTensor):
    """Remembers the largest tensor that an operation has returned: its shape, and how many values."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0
        self.shape: list[int] = []

    def look(self, tensor: Tensor) -> None:
        """See EveryTensor."""
        if tensor.numel() > self.values:
            self.values = tensor.numel()
            self.shape = list(tensor.shape)
