"""What a puzzle is: one typed torch function, from which everything else is derived.

    @puzzle(grid="cdiv(N, BLOCK)", outputs=dict(z=f32("N")), cases=[case(N=200, BLOCK=64), ...])
    def add_blocks(x: f32("N"), N: Size, BLOCK: Block):
        '''statement'''
        return dict(z=x + 10)

The annotations generate the inputs, the kernel's signature, the printed statement and the launch;
the body is the answer, computed in float64. So a statement and its check cannot disagree.
The kernel receives, by name: a pointer `<tensor>_ptr` for every tensor (inputs, then outputs), the
sizes and numbers, `stride_<tensor><dim>` for tensors declared with strides, and the block sizes.
Used by all sheets; notebook 09 shows how the judge reads it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import cleandoc, signature
from pathlib import Path

import torch


class Size:
    """Annotation: an integer that the kernel receives at run time."""


class Number:
    """Annotation: a float that the kernel receives at run time."""


class Block:
    """Annotation: a `tl.constexpr`, known when the kernel is compiled."""


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
        return tuple(int(evaluate(dim, sizes)) for dim in self.dims)

    def draw(self, sizes: Mapping[str, float], rng: torch.Generator) -> torch.Tensor:
        """Fresh values: normal with variance 1, or integers from [low, high)."""
        shape = self.shape(sizes)
        if self.dtype.is_floating_point:
            return torch.randn(shape, generator=rng).to(self.dtype)
        return torch.randint(self.low, int(evaluate(str(self.high), sizes)), shape, generator=rng).to(self.dtype)

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')}[{', '.join(self.dims)}]"


def _declare(dtype: torch.dtype) -> Callable[..., Tensor]:
    return lambda *dims, **options: Tensor(dtype, dims, **options)


f32, f16, i64, i32, i8, u8 = map(_declare, (torch.float32, torch.float16, torch.int64, torch.int32,
                                            torch.int8, torch.uint8))


def cdiv(a: int, b: int) -> int:
    """How many blocks of b cover a."""
    return -(-a // b)


def evaluate(expression: str, sizes: Mapping[str, float]) -> float:
    """The value of a dimension or grid expression such as "cdiv(N, BLOCK)"."""
    return eval(expression, {"__builtins__": {}, "cdiv": cdiv, "min": min, "max": max}, dict(sizes))


@dataclass(frozen=True)
class Case:
    """One launch: sizes, numbers and blocks; how large the values are; which layout tensors have.

    `layout` 0 is contiguous. Else tensors declared with strides alternate between padded rows and
    reversed dimensions; 1 begins with padding, 2 with reversal.
    """

    sizes: Mapping[str, float]
    scale: float = 1.0
    shift: float = 0.0
    layout: int = 0

    def __str__(self) -> str:
        parts = [f"{name}={value}" for name, value in self.sizes.items()]
        parts += [f"values x {self.scale:g}"] * (self.scale != 1) + [f"values + {self.shift:g}"] * (self.shift != 0)
        return ", ".join(parts + ["odd strides"] * bool(self.layout))


def case(scale: float = 1.0, shift: float = 0.0, layout: int = 0, **sizes: float) -> Case:
    return Case(sizes, scale, shift, layout)


@dataclass(frozen=True)
class Answer:
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
    sheet: int
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
    reference: Callable[..., Mapping[str, Answer]]
    prepare: Callable | None                # (tensors, sizes, rng) -> tensors, to shape the inputs
    budget: Mapping[str, str]               # tensor -> most elements that may be loaded
    flops: str                              # arithmetic of one launch, as an expression; "0" if only traffic counts
    hints: tuple[str, str, str]
    picture: tuple = field(default=(), repr=False)
    programs: str = ""                      # where the grid is the learner's: how many programs are enough

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors in the kernel's order: inputs, then outputs."""
        return {**self.inputs, **{name: t for name, t in self.outputs.items() if name not in self.inputs}}

    @property
    def parameters(self) -> tuple[str, ...]:
        """The kernel's parameter names, in order."""
        strides = [f"stride_{name}{dim}" for name, t in self.tensors.items() if t.strides
                   for dim in axis_names(t)]
        return (*(f"{name}_ptr" for name in self.tensors), *self.scalars, *strides, *self.blocks)

    @property
    def stub(self) -> str:
        """The unsolved kernel, as the sheet shows it."""
        marked = [f"{name}: tl.constexpr" if name in self.blocks else name for name in self.parameters]
        kernel = f"@triton.jit\ndef {self.name}({_wrapped(marked, len(self.name) + 5)}):\n    pass\n"
        return kernel if self.grid else f"{kernel}\n\ndef grid_of_{self.name}(meta):\n    return (1,)\n"

    @property
    def markdown(self) -> str:
        """The exact statement, as the sheet shows it."""
        formula, _, rest = self.statement.partition("\n\n")
        rows = [f"| `{name}_ptr` | {self._direction(name)} | `{t}`{', with strides' if t.strides else ''} |"
                for name, t in self.tensors.items()]
        limits = [f"at most `{most}` elements of `{name}`" for name, most in self.budget.items()]
        grid = (
            f"`({', '.join(self.grid)}{',' * (len(self.grid) == 1)})`"
            if self.grid
            else f"yours: `grid_of_{self.name}(meta)` returns it"
        )
        return "\n".join([
            f"**{self.title}** · `{self.name}` · about {self.minutes} minutes · from {self._notebook()}", "",
            "```", formula, "```", "", rest, "",
            "| pointer | | tensor |", "|---|---|---|", *rows, "", f"Grid: {grid}."
            + (f" A launch may load {', '.join(limits)}." if limits else "")])

    def _notebook(self) -> str:
        """The notebook that prepares for this puzzle; a link, as seen from a sheet, where the file exists."""
        path, number = f"notebooks/{self.notebook}.ipynb", self.notebook[:2]
        exists = (Path(__file__).parents[1] / path).is_file()
        return f"notebook [{number}](../../{path})" if exists else f"notebook {number}"

    def _direction(self, name: str) -> str:
        if name in self.inputs:
            return "changed in place" if name in self.outputs else "in"
        return "out"

    def launch_grid(self, case: Case) -> tuple[int, ...]:
        return tuple(int(evaluate(axis, case.sizes)) for axis in self.grid)

    def meta(self, case: Case) -> dict[str, float]:
        """The sizes and blocks that a learner's own grid function receives."""
        return {name: case.sizes[name] for name in (*self.scalars, *self.blocks)}

    def draw(self, case: Case, seed: int) -> dict[str, torch.Tensor]:
        """Fresh input tensors for a case."""
        rng = torch.Generator().manual_seed(seed)
        tensors = {name: t.draw(case.sizes, rng) for name, t in self.inputs.items()}
        for name, t in self.inputs.items():
            if t.dtype.is_floating_point and (case.scale, case.shift) != (1.0, 0.0):
                tensors[name] = (tensors[name] * case.scale + case.shift).to(t.dtype)
        return self.prepare(tensors, case.sizes, rng) if self.prepare else tensors

    def solve(self, tensors: Mapping[str, torch.Tensor], case: Case) -> dict[str, Answer]:
        """The right answer in float64, from copies of the inputs."""
        wide = {name: t.double() if t.is_floating_point() else t.clone() for name, t in tensors.items()}
        answers = self.reference(**wide, **self.meta(case))
        return {name: a if isinstance(a, Answer) else Answer(a) for name, a in answers.items()}


def axis_names(tensor: Tensor) -> list[str]:
    """One letter for each dimension of a strided tensor: "M", "2 * K" -> "m", "k"."""
    return [next(c for c in dim if c.isalpha()).lower() for dim in tensor.dims]


def puzzle(*, title: str, minutes: int, notebook: str, outputs: Mapping[str, Tensor], cases: list[Case],
           big: Case, hints: tuple[str, str, str], grid: str | None = None, prepare: Callable | None = None,
           budget: Mapping[str, str] | None = None, flops: str = "0",
           picture: tuple = (), programs: str = "") -> Callable[[Callable], Puzzle]:
    """Make a Puzzle of a typed torch function. `grid=None`: the learner passes the grid."""
    def make(reference: Callable) -> Puzzle:
        kinds = {name: p.annotation for name, p in signature(reference).parameters.items()}
        return Puzzle(
            name=reference.__name__, sheet=int(reference.__module__[-1]), title=title, minutes=minutes,
            notebook=notebook, statement=cleandoc(reference.__doc__),
            inputs={name: kind for name, kind in kinds.items() if isinstance(kind, Tensor)}, outputs=outputs,
            scalars={name: kind for name, kind in kinds.items() if kind in (Size, Number)},
            blocks=tuple(name for name, kind in kinds.items() if kind is Block),
            grid=_axes(grid), cases=tuple(cases), big=big, reference=reference, prepare=prepare,
            budget=budget or {}, flops=flops, hints=hints, picture=picture, programs=programs)
    return make


def _axes(grid: str | None) -> tuple[str, ...] | None:
    """Split "a, cdiv(b, c)" at its outer commas."""
    if grid is None:
        return None
    axes, depth = [""], 0
    for c in grid:
        depth += (c == "(") - (c == ")")
        if c == "," and not depth:
            axes.append("")
        else:
            axes[-1] += c
    return tuple(axis.strip() for axis in axes)


def _wrapped(words: list[str], indent: int, width: int = 96) -> str:
    """Words with commas, broken into lines that start at `indent`."""
    lines = [""]
    for i, word in enumerate(words):
        word += "," * (i + 1 < len(words))
        if len(lines[-1]) + len(word) + indent > width:
            lines.append("")
        lines[-1] += " " * bool(lines[-1]) + word
    return ("\n" + " " * indent).join(lines)
