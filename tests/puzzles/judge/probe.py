"""A small kernel, judged on a puzzle of its own: one question to the judge at a time."""

import torch

from puzzles.checking import judge_text
from puzzles.puzzle import Case, Expected, Puzzle
from puzzles.source import from_text
from puzzles.tensors import Size, f32

_HEADER = "import triton\nimport triton.language as tl\n\n\n@triton.jit\ndef probe(x_ptr, z_ptr, N):\n"
OFFSETS = "i = tl.arange(0, 8)\n"


def copy(x, N):
    return dict(z=x)


def total(x, N):
    return dict(z=Expected(x.sum(0, keepdim=True), terms=N, size=lambda: x.abs().sum(0, keepdim=True)))


def relu(x, N):
    return dict(z=x.relu())


def zero(x, N):
    return dict(z=0 * x)


def largest(x, N):
    return dict(z=x.amax(0, keepdim=True))


def all_negative(tensors, sizes, rng):
    return dict(x=-tensors["x"].abs())


def count(x, N):
    return dict(z=torch.arange(N))


def probe(workers, body, reference=copy, grid=("1",), out=f32("N"), sizes=(8,), **changes):
    """The verdict on a small kernel of one line or more, judged on a puzzle of its own."""
    fields = dict(
        name="probe",
        title="",
        minutes=1,
        notebook="",
        statement="",
        inputs=dict(x=f32("N")),
        outputs=dict(z=out),
        scalars=dict(N=Size),
        blocks=(),
        grid=grid,
        cases=tuple(Case(dict(N=n)) for n in sizes),
        big=Case(dict(N=8)),
        reference=reference,
        prepare=None,
        budget={},
        flops="0",
        hints=("", "", ""),
    )
    puzzle = Puzzle(**(fields | changes))
    text = _HEADER + "".join(f"    {line}\n" for line in body.splitlines())
    return judge_text(puzzle, from_text(text, "probe"), full=False, seed=1, workers=workers, seconds=10)
