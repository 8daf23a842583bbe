"""What a puzzle is: one typed torch function, from which everything else is derived.

    @puzzle(grid="cdiv(N, BLOCK)", outputs=dict(z=f32("N")), cases=[case(N=200, BLOCK=64), ...])
    def add_blocks(x: f32("N"), N: Size, BLOCK: BlockSize):
        '''statement'''
        return dict(z=x + 10)

The annotations generate the inputs, the kernel's signature, the printed statement and the launch;
the body is the answer, computed in float64. So a statement and its check cannot disagree.
The kernel receives, by name: a pointer `<tensor>_ptr` for every tensor (inputs, then outputs), the
sizes and numbers, `stride_<tensor><dim>` for tensors declared with strides, and the block sizes.
Used by all sheets; notebook 09 shows how the judge reads it.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from inspect import cleandoc, signature

import torch

from puzzles.tensors import BlockSize, Number, Size, Tensor, evaluate
from puzzles.tiling import Panel


_MOST_STEPS = 8                          # by which a size may grow
ONCE = "once_a_program"                  # a budget: whatever a program loads, it loads once


@dataclass(frozen=True)
class Case:
    """One launch: sizes, numbers and blocks; how large the values are; which layout tensors have.

    `layout` 0 is contiguous. Else tensors declared with strides alternate between padded rows and
    reversed dimensions; 1 begins with padding, 2 with reversal. `make` puts in what must occur, such as
    ties; its name says what. `grow` adds between one and eight steps to a size, others in every judgement,
    so that no constant is large enough.
    """

    sizes: Mapping[str, float]
    scale: float = 1.0
    shift: float = 0.0
    layout: int = 0
    make: Callable | None = None            # (tensors, sizes) -> tensors
    grow: Mapping[str, int] = field(default_factory=dict)       # size -> step

    def grown(self, seed: int) -> "Case":
        """This case as a judgement with this seed sees it."""
        rng = random.Random(seed)
        more = {name: self.sizes[name] + step * rng.randint(1, _MOST_STEPS)
                for name, step in self.grow.items()}
        return replace(self, sizes={**self.sizes, **more}, grow={})

    def __str__(self) -> str:
        parts = [f"{name}={value}" for name, value in self.sizes.items()]
        if self.scale != 1:
            parts.append(f"values x {self.scale:g}")
        if self.shift != 0:
            parts.append(f"values + {self.shift:g}")
        if self.layout:
            parts.append("odd strides")
        if self.make:
            parts.append(self.make.__name__.replace("_", " "))
        return ", ".join(parts)


def case(scale: float = 1.0, shift: float = 0.0, layout: int = 0, make: Callable | None = None,
         grow: Mapping[str, int] | None = None, **sizes: float) -> Case:
    """A Case with its sizes as keywords: case(N=200, BLOCK=64, layout=1)."""
    return Case(sizes=sizes, scale=scale, shift=shift, layout=layout, make=make, grow=grow or {})


@dataclass(frozen=True)
class Expected:
    """The right values (float64) and what is needed to bound a float32 kernel's rounding error.

    `terms`: the length of the sum behind one output.
    `amplified`: units by which errors on the way grow in the result, as a score's error does in exp(score).
    `size()`: the sum of the terms' absolute values, element by element; None means |value|.
    `written`: which elements the kernel must write; None means all. All others it must leave alone.
    `program()`: which program (counted along axis 0) must write each element; None means any.
    """

    value: torch.Tensor
    terms: int = 4
    amplified: int = 0
    size: Callable[[], torch.Tensor] | None = None
    written: torch.Tensor | None = None
    program: Callable[[], torch.Tensor] | None = None


@dataclass(frozen=True)
class Puzzle:
    """A puzzle: statement, signature, launch, cases, answer and hints."""

    name: str
    title: str
    minutes: int
    notebook: str
    statement: str
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]           # a name that is also an input is changed in place
    scalars: Mapping[str, type]             # Size or Number
    blocks: tuple[str, ...]
    grid: tuple[str, ...] | None            # None: the learner passes grid=
    cases: tuple[Case, ...]
    big: Case                               # compiled with these blocks; run at this size on a GPU
    reference: Callable[..., Mapping[str, Expected | torch.Tensor]]
    prepare: Callable | None                # (tensors, sizes, rng) -> tensors, to shape the inputs
    budget: Mapping[str, str]               # tensor -> most elements that may be loaded
    flops: str                              # arithmetic of one launch, an expression; "0": only bytes count
    hints: tuple[str, str, str]
    picture: tuple[Panel, ...] = field(default=(), repr=False)
    programs: str = ""                      # where the grid is the learner's: how many programs are enough
    needs: Callable | None = None           # (tensors, sizes) -> elements of some inputs that must be read
    sheet: int = 0                          # the catalogue numbers the sheets; 0 is in none

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors in the kernel's order: inputs, then outputs."""
        return {**self.inputs, **self.fresh}

    @property
    def fresh(self) -> dict[str, Tensor]:
        """The outputs that are no inputs."""
        return {name: tensor for name, tensor in self.outputs.items() if name not in self.inputs}

    @property
    def parameters(self) -> tuple[str, ...]:
        """The kernel's parameter names, in order."""
        pointers = [f"{name}_ptr" for name in self.tensors]
        strides = []
        for name, tensor in self.tensors.items():
            if tensor.strides:
                strides += [f"stride_{name}{axis}" for axis in tensor.axes]
        return (*pointers, *self.scalars, *strides, *self.blocks)

    def launch_grid(self, case: Case) -> tuple[int, ...]:
        """The puzzle's own grid for a case."""
        return tuple(int(evaluate(axis, case.sizes)) for axis in self.grid)

    def enough_programs(self, case: Case) -> int | None:
        """How many programs a case needs, where the grid is the learner's; None if nothing is said about it.
        """
        if not self.programs:
            return None
        return int(evaluate(self.programs, case.sizes))

    def meta(self, case: Case) -> dict[str, float]:
        """The sizes and blocks that a learner's own grid function receives."""
        return {name: case.sizes[name] for name in (*self.scalars, *self.blocks)}

    def cases_of(self, seed: int) -> tuple[Case, ...]:
        """The cases of one judgement, from small to large."""
        return tuple(case.grown(seed) for case in self.cases)

    def draw(self, case: Case, seed: int) -> dict[str, torch.Tensor]:
        """Fresh input tensors for a case."""
        rng = torch.Generator().manual_seed(seed)
        tensors = {name: tensor.draw(case.sizes, rng) for name, tensor in self.inputs.items()}
        if (case.scale, case.shift) != (1.0, 0.0):
            tensors = {name: _scaled(values, case) for name, values in tensors.items()}
        if case.make is not None:
            tensors = case.make(tensors, case.sizes)
        if self.prepare is None:
            return tensors
        return self.prepare(tensors, case.sizes, rng)

    def least_elements(self, tensors: Mapping[str, torch.Tensor], case: Case,
                       answers: Mapping[str, Expected]) -> dict[str, int]:
        """How many elements of each tensor a kernel must load or store at least: an input's once, except
        where it is NaN or `needs` says less; an output's that it must write once."""
        least = {name: _numbers(values) for name, values in tensors.items()}
        if self.needs is not None:
            least |= self.needs(tensors, case.sizes)
        for name, answer in answers.items():
            written = answer.written
            least[name] = answer.value.numel() if written is None else int(written.sum())
        return least

    def solve(self, tensors: Mapping[str, torch.Tensor], case: Case) -> dict[str, Expected]:
        """The right answer in float64, from copies of the inputs."""
        copies = {name: _wide_copy(values) for name, values in tensors.items()}
        answers = self.reference(**copies, **self.meta(case))
        return {name: _expected(answer) for name, answer in answers.items()}


def _scaled(values: torch.Tensor, case: Case) -> torch.Tensor:
    if not values.dtype.is_floating_point:
        return values
    return (values * case.scale + case.shift).to(values.dtype)


def _numbers(values: torch.Tensor) -> int:
    if not values.is_floating_point():
        return values.numel()
    return values.numel() - int(values.isnan().sum())


def _wide_copy(values: torch.Tensor) -> torch.Tensor:
    if values.is_floating_point():
        return values.double()
    return values.clone()


def _expected(answer: Expected | torch.Tensor) -> Expected:
    if isinstance(answer, Expected):
        return answer
    return Expected(answer)


def puzzle(*, title: str, minutes: int, notebook: str, outputs: Mapping[str, Tensor], cases: list[Case],
           big: Case, hints: tuple[str, str, str], grid: str | None = None, prepare: Callable | None = None,
           budget: Mapping[str, str] | None = None, flops: str = "0",
           picture: tuple[Panel, ...] = (), programs: str = "",
           needs: Callable | None = None) -> Callable[[Callable], Puzzle]:
    """Decorator: make a Puzzle of a typed torch function. `grid=None`: the learner passes the grid."""
    def make(reference: Callable) -> Puzzle:
        parameters = signature(reference).parameters
        kinds = {name: parameter.annotation for name, parameter in parameters.items()}
        return Puzzle(
            name=reference.__name__,
            title=title,
            minutes=minutes,
            notebook=notebook,
            statement=cleandoc(reference.__doc__),
            inputs={name: kind for name, kind in kinds.items() if isinstance(kind, Tensor)},
            scalars={name: kind for name, kind in kinds.items() if kind in (Size, Number)},
            outputs=outputs,
            blocks=tuple(name for name, kind in kinds.items() if kind is BlockSize),
            grid=_axes(grid),
            cases=tuple(cases),
            big=big,
            reference=reference,
            prepare=prepare,
            budget=budget or {},
            flops=flops,
            hints=hints,
            picture=picture,
            programs=programs,
            needs=needs,
        )
    return make


def _axes(grid: str | None) -> tuple[str, ...] | None:
    """Split "a, cdiv(b, c)" at its outer commas."""
    if grid is None:
        return None
    axes = [""]
    depth = 0
    for letter in grid:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and not depth:
            axes.append("")
        else:
            axes[-1] += letter
    return tuple(axis.strip() for axis in axes)
