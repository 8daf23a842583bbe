"""What an exercise is: a judge written in plain Python, and three hints.

    notebooks/exercises/01_fit_a_line.py:   @exercise("01.shards", hints=(…, …, …))
                         def shards(combine): close(combine(…), want, "the gradient")

The part before the first dot names the file, which is loaded when it is first asked for.
A judge raises `Wrong` (through `close` or `require`) with a message for the learner, or
returns. Running the learner's code safely is `verdict.py`'s business.
"""

import functools
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import aiinfra
from aiinfra.errors import nearest_name, plural
from aiinfra.lab.difference import Difference, relation, where


_MOST_SHOWN = 4                          # values of a tensor in a message
_MANY = 6                                # values in which a pattern can be seen


class Wrong(Exception):
    """The answer is not right; the text says what was seen, for the learner to read."""


class Unsolved(Exception):
    """The answer is still the stub."""


@dataclass(frozen=True)
class Exercise:
    """`judge(answer)` raises Wrong or Unsolved, or returns a text for the pass (or None).

    `timed`: an answer that runs too long is stopped. Not so where the judge sets the limit itself.
    """

    name: str
    hints: tuple[str, str, str]
    judge: Callable[[Any], str | None]
    timed: bool = True


def exercise(name: str, hints: Sequence[str], timed: bool = True) -> Callable[[Callable], Exercise]:
    """Decorator: make a judge function into an Exercise. Raises ValueError unless there are 3 hints."""
    if len(hints) != 3:
        raise ValueError(f"{name}: {len(hints)} hints, but there are three levels: "
                         "direction, idea, nearly code.")

    def make(judge: Callable[[Any], str | None]) -> Exercise:
        return Exercise(name=name, hints=tuple(hints), judge=judge, timed=timed)
    return make


def require(condition: Any, message: str) -> None:
    """Raise Wrong(message) unless the condition holds."""
    if not condition:
        raise Wrong(message)


def close(got: Any, want: Any, what: str, rtol: float = 1e-5, atol: float = 1e-8) -> None:
    """Raise Wrong unless `got` (number, sequence or tensor) has the shape and the values of `want`.

    `what` names the value in the message: close(a, 6.1, "the slope").
    """
    if got is Ellipsis:
        raise Unsolved
    require(got is not None, f"{what}: your function returned None. Is a `return` missing?")
    mine, right = _tensor(got, what), _tensor(want, what)
    if mine.shape != right.shape:
        raise Wrong(f"{what}: shape {list(mine.shape)}, but {list(right.shape)} is wanted.")
    if _is_finite(right) and not _is_finite(mine):
        raise Wrong(f"{what}: {_show(mine)} is not finite; {_show(right)} is wanted.")
    wrong = ~torch.isclose(mine, right, rtol=rtol, atol=atol, equal_nan=True)
    if wrong.any():
        first = int(wrong.flatten().nonzero()[0])
        shown = f"you have {_show(mine, first)}; {_show(right, first)} is wanted"
        allowed = atol + rtol * right.abs()
        seen = _seen(Difference(got=mine, right=right, wrong=wrong, allowed=allowed))
        raise Wrong(f"{what}: {shown}{seen}.")


def _is_finite(tensor: torch.Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _tensor(value: Any, what: str) -> torch.Tensor:
    if isinstance(value, (tuple, list)):
        parts = [_tensor(item, what) for item in value]
        return torch.stack(parts) if parts else torch.empty(0)
    try:
        return torch.as_tensor(value).detach().to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"{what}: a {type(value).__name__} cannot be read as numbers.") from None


def _seen(difference: Difference) -> str:
    """Which values differ and how, where there are so many that it can be seen."""
    wrong = difference.wrong
    if wrong.numel() < _MANY or not _is_finite(difference.mine) or not _is_finite(difference.wanted):
        return ""
    differ = f"{int(wrong.sum())} of {plural(wrong.numel(), 'value')} differ"
    return ". " + "; ".join(filter(None, (differ, where(difference), relation(difference).seen)))


def _show(tensor: torch.Tensor, first: int = 0) -> str:
    """The value of a number; of anything larger a few values, from one that differs on."""
    if tensor.numel() <= _MOST_SHOWN:
        first = 0
    values = [f"{value:.6g}" for value in tensor.flatten()[first:first + _MOST_SHOWN].tolist()]
    if first:
        values.insert(0, "…")
    if tensor.numel() > first + _MOST_SHOWN:
        values.append("…")
    text = ", ".join(values)
    return text if tensor.ndim == 0 else f"[{text}]"


def folder() -> Path:
    """Where the judges of the pages stand: notebooks/exercises/, beside the pages."""
    return Path(aiinfra.__path__[0]).resolve().parent / "notebooks" / "exercises"


@functools.cache
def load(number: str) -> dict[str, Exercise]:
    """The exercises of notebook "01", in the order of the file; {} if it has none."""
    paths = sorted(folder().glob(f"{number}_*.py"))
    if not paths:
        return {}
    module = load_file(paths[0])
    return {item.name: item for item in vars(module).values() if isinstance(item, Exercise)}


def load_file(path: Path) -> ModuleType:
    """A Python file whose name is no module's, such as 12_batching.py, as a module."""
    name = f"exercises_of_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module                   # dataclasses and pickle look a class's module up by its name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def numbers() -> list[str]:
    """The numbers of all notebooks that have exercises, in order."""
    return sorted(path.stem.split("_")[0] for path in folder().glob("[0-9]*.py"))


def find(name: str) -> Exercise:
    """The exercise of that name. Raises ValueError naming the nearest one that exists."""
    number = name.split(".")[0]
    if name[:2].isdigit() and name in load(number):
        return load(number)[name]
    known = [known for number in numbers() for known in load(number)]
    message = f"there is no exercise {name!r}."
    if near := nearest_name(name, known, cutoff=0.0):
        message += f" The nearest is {near!r}."
    raise ValueError(message)
