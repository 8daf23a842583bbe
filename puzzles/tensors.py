"""The words in which a puzzle declares what its kernel receives: tensors, sizes, numbers and block sizes.

    def add_blocks(x: f32("N"), N: Size, c: Number, BLOCK: BlockSize): ...

Dimensions are expressions of the sizes, such as "cdiv(N, BLOCK)"; `evaluate` computes them.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


class Size:
    """Annotation: an integer that the kernel receives at run time."""


class Number:
    """Annotation: a float that the kernel receives at run time."""


class BlockSize:
    """Annotation: a `tl.constexpr`, known when the kernel is compiled."""


def cdiv(a: int, b: int) -> int:
    """How many blocks of b cover a."""
    return -(-a // b)


def evaluate(expression: str, sizes: Mapping[str, float]) -> float:
    """The value of a dimension or grid expression such as "cdiv(N, BLOCK)"."""
    known = {"__builtins__": {}, "cdiv": cdiv, "min": min, "max": max}
    return eval(expression, known, dict(sizes))


@dataclass(frozen=True)
class Tensor:
    """A tensor argument: its dtype, its dimensions as expressions of the sizes, and its values."""

    dtype: torch.dtype
    dims: tuple[str, ...]
    strides: bool = False               # the kernel receives strides, and they are not always contiguous
    low: int = 0                        # integers are drawn from [low, high)
    high: str | int = 10
    start: float | None = None          # outputs: None means NaN

    def shape(self, sizes: Mapping[str, float]) -> tuple[int, ...]:
        """The dimensions as numbers."""
        return tuple(int(evaluate(dim, sizes)) for dim in self.dims)

    def draw(self, sizes: Mapping[str, float], rng: torch.Generator) -> torch.Tensor:
        """Fresh values: normal with variance 1, or integers from [low, high)."""
        shape = self.shape(sizes)
        if self.dtype.is_floating_point:
            values = torch.randn(shape, generator=rng)
        else:
            high = int(evaluate(str(self.high), sizes))
            values = torch.randint(self.low, high, shape, generator=rng)
        return values.to(self.dtype)

    @property
    def unwritten(self) -> tuple[float, ...]:
        """What an output may hold before a launch: its start value, else NaN, or an integer from either end.
        """
        if self.start is not None:
            return (self.start,)
        if self.dtype.is_floating_point:
            return (float("nan"),)
        limits = torch.iinfo(self.dtype)
        return (limits.max, limits.min)

    @property
    def axes(self) -> list[str]:
        """One letter for each dimension: "M", "2 * K" -> "m", "k"."""
        return [_first_letter(dim).lower() for dim in self.dims]

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{dtype}[{', '.join(self.dims)}]"


def _first_letter(text: str) -> str:
    return next(letter for letter in text if letter.isalpha())


def _tensor(dtype: torch.dtype, *dims: str, **options) -> Tensor:
    return Tensor(dtype, dims, **options)


def _declare(dtype: torch.dtype) -> Callable[..., Tensor]:
    return functools.partial(_tensor, dtype)


f32 = _declare(torch.float32)
f16 = _declare(torch.float16)
i64 = _declare(torch.int64)
i32 = _declare(torch.int32)
i8 = _declare(torch.int8)
u8 = _declare(torch.uint8)
