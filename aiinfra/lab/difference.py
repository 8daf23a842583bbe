"""What can be seen in a wrong answer: which elements differ, and how they are related to the right ones.

    right  1 2 3 4
    got    1 2 6 8    ──►    where: column from 2 on     relation: all are 2 times the right value

Relations are tried from the simplest on. Only one that holds for every element that differs is told, so that
it is something seen and not a guess. Judges of pages and of puzzles tell it.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

_FEW = 3                                 # fewer elements show no common factor
_MANY = 8                                # fewer show no likeness
_NAMED = 4                               # indices of an axis that are listed one by one
_MOST_WORK = 1 << 22                     # comparisons that looking for exchanged rows may take
_AS_ROUNDED = 2e-3                       # of the value: float16, TF32 and bfloat16 lie below
_NUMBERS = {"log2(e)": math.log2(math.e), "ln 2": math.log(2)}


@dataclass(frozen=True)
class Relation:
    """How the wrong values are related to the right ones, and what that speaks for."""

    seen: str
    look_at: str


@dataclass(frozen=True)
class Difference:
    """A wrong answer beside the right one: float64 tensors of one shape, of which those of `wrong` differ.

    `allowed`: by how much each element may differ. `axes`: a word for each dimension. `numbers` may explain a
    factor or an offset, `blocks` where a run of wrong elements begins: both by their names.
    """

    got: Tensor
    right: Tensor
    wrong: Tensor
    allowed: Tensor
    axes: tuple[str, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)
    blocks: Mapping[str, int] = field(default_factory=dict)

    @property
    def mine(self) -> Tensor:
        """The wrong values."""
        return self.got[self.wrong]

    @property
    def wanted(self) -> Tensor:
        """The right values of the same elements."""
        return self.right[self.wrong]

    @property
    def slack(self) -> Tensor:
        """How far from a relation each of them may be."""
        return 4 * self.allowed[self.wrong] + 1e-5 * self.mine.abs()

    def fits(self, values: Tensor) -> bool:
        """Whether the wrong values are these."""
        return bool(((self.mine - values).abs() <= self.slack).all())

    def word(self, axis: int) -> str:
        """What an index of a dimension is called."""
        if self.axes:
            return self.axes[axis]
        if self.got.dim() == 1:
            return "element"
        return {-2: "row", -1: "column"}.get(axis - self.got.dim(), f"index of axis {axis}")


def relation(difference: Difference) -> Relation:
    """The simplest relation between what is there and what is right; at least on which side it lies."""
    for look in (_one_value, _factor, _offset, _exchanged, _along_an_axis, _rounded, _likeness):
        if found := look(difference):
            return found
    return _side(difference)


def where(difference: Difference) -> str:
    """Which elements differ, where an axis divides them from the others: "row 1 and 4 (of 6)", or ""."""
    if triangle := _triangle(difference.wrong):
        return triangle
    parts = []
    for axis, count in enumerate(difference.wrong.shape):
        others = [other for other in range(difference.wrong.dim()) if other != axis]
        touched = difference.wrong.any(dim=others) if others else difference.wrong
        if not touched.all():
            indices = touched.nonzero().flatten().tolist()
            parts.append(f"{difference.word(axis)} {_said(indices, count, difference.blocks)}")
    return ", ".join(parts)


def _said(indices: list[int], count: int, blocks: Mapping[str, int]) -> str:
    """Indices in words."""
    first, last = indices[0], indices[-1]
    unbroken = last - first + 1 == len(indices)
    if len(indices) == 1:
        return f"{first} alone (of {count})"
    if unbroken and last == count - 1:
        return f"from {first} on (of {count}){_at_a_block(first, blocks)}"
    if unbroken and first == 0:
        return f"up to {last} (of {count})"
    if unbroken:
        return f"{first} to {last} (of {count})"
    step = indices[1] - first
    if len(indices) > 2 and indices == list(range(first, count, step)):
        return f"{first} and every {step} further (of {count})"
    shown = ", ".join(map(str, indices[:_NAMED - 1]))
    if len(indices) > _NAMED:
        return f"{shown} and {len(indices) - _NAMED + 1} more (of {count})"
    shown = ", ".join(map(str, indices[:-1]))
    return f"{shown} and {last} (of {count})"


def _at_a_block(first: int, blocks: Mapping[str, int]) -> str:
    for name, size in blocks.items():
        if size > 1 and first and first % size == 0:
            return f", where a block of {name} = {size} begins"
    return ""


def _triangle(wrong: Tensor) -> str:
    """All above, or all below, the diagonal of the last two dimensions, and nothing else; or ""."""
    if wrong.dim() < 2 or min(wrong.shape[-2:]) < _FEW:
        return ""
    ones = torch.ones(wrong.shape[-2:], dtype=torch.bool)
    if (wrong == ones.triu(1)).all():
        return "all above the diagonal, and nothing else"
    if (wrong == ones.tril(-1)).all():
        return "all below the diagonal, and nothing else"
    return ""


# --- relations, the simplest first ---------------------------------------------------------------

def _one_value(difference: Difference) -> Relation | None:
    mine = difference.mine
    if not (mine == mine[0]).all():
        return None
    if mine[0] == 0:
        look = "why nothing arrives there: a term that is left out, a mask that is false, an early end"
        return Relation("what differs is 0", look)
    if len(mine) < _FEW or (difference.wanted == difference.wanted[0]).all():
        return None
    look = "what is the same for all of them: a start value?"
    return Relation(f"what differs is {mine[0]:.6g} everywhere", look)


def _factor(difference: Difference) -> Relation | None:
    """The same factor for all, or the same for all where a number explains it."""
    mine, wanted = difference.mine, difference.wanted
    large = wanted.abs() > 100 * difference.allowed[difference.wrong]
    if not large.any():
        return None
    factor = float((mine[large] / wanted[large]).median())
    name = _name_of(factor, difference.numbers)
    if not difference.fits(factor * wanted) or len(mine) < _FEW and not name:
        return None
    if math.isclose(factor, -1, rel_tol=1e-4):
        return Relation("what differs has the wrong sign", "the order of a difference, or a minus sign")
    if math.isclose(factor, 1, rel_tol=2e-5):
        return None
    look = f"what multiplies or divides by it{name}, once too often or not at all"
    return Relation(f"all are {factor:.5g} times what is right{name}", look)


def _offset(difference: Difference) -> Relation | None:
    offsets = difference.mine - difference.wanted
    offset = float(offsets.median())
    name = _name_of(offset, difference.numbers)
    if not difference.fits(difference.wanted + offset) or len(offsets) < _FEW and not name:
        return None
    if abs(offset) <= 1e-5 * float(difference.mine.abs().max()):
        return None
    look = f"what is added or left out once for each of them{name}"
    return Relation(f"all are off by {offset:.4g}{name}", look)


def _name_of(value: float, numbers: Mapping[str, float]) -> str:
    """ (1 / BLOCK), if a number that is known gives the value."""
    for name, number in {**numbers, **_NUMBERS}.items():
        if number in (0, 1):
            continue
        forms = {name: number, f"-{name}": -number, f"1 / {name}": 1 / number}
        if number > 0:
            forms |= {f"√{name}": math.sqrt(number), f"1 / √{name}": 1 / math.sqrt(number)}
        for said, form in forms.items():
            if math.isclose(value, form, rel_tol=1e-4):
                return f" ({said})"
    return ""


def _exchanged(difference: Difference) -> Relation | None:
    """Right values, but of other rows, or of the transposed matrix."""
    look = "the index by which they are loaded or stored"
    for axis in range(difference.got.dim()):
        if moved := _moved(difference, axis):
            word = difference.word(axis)
            mine, theirs = moved[0]
            shifts = {there - here for here, there in moved}
            which = f"each {word} holds what belongs {shifts.pop()} further"
            if shifts:
                which = f"{word} {mine} holds what belongs to {word} {theirs}"
            return Relation(f"the values are right, but in other places: {which}", look)
    shape = difference.got.shape
    if len(shape) > 1 and shape[-1] == shape[-2] and difference.fits(difference.right.mT[difference.wrong]):
        return Relation("the values are those of the transposed matrix", look)
    return None


def _moved(difference: Difference, axis: int) -> list[tuple[int, int]]:
    """(wrong row, row to which its values belong), if that explains all; a row is an index of `axis`."""
    got, right, allowed = (one.movedim(axis, 0).flatten(1) if one.dim() > 1 else one[:, None]
                           for one in (difference.got, difference.right, 4 * difference.allowed))
    rows, width = got.shape
    if rows < 2 or rows * width < _MANY or rows * rows * width > _MOST_WORK:
        return []
    alike = ((got[:, None] - right[None]).abs() <= allowed[None] + 1e-12).all(2)
    wrong = (~alike.diagonal()).nonzero().flatten().tolist()
    if not alike[wrong].any(1).all():
        return []
    return [(row, int(alike[row].nonzero()[0])) for row in wrong]


def _along_an_axis(difference: Difference) -> Relation | None:
    """One factor, or one offset, for a whole row, and others for other rows."""
    for axis, count in reversed(list(enumerate(difference.got.shape))):
        if count < _FEW or difference.got.numel() == count:
            continue
        word = difference.word(axis)
        look = f"what is computed once for every {word}: a sum, a maximum or a scale"
        for what, values in _common(difference, axis):
            if difference.fits(values):
                return Relation(f"along {word}, all have the same {what}", look)
    return None


def _common(difference: Difference, axis: int) -> Iterator[tuple[str, Tensor]]:
    """The wrong values as they would be with one factor along an axis, and with one offset."""
    got = difference.got.where(difference.wrong, 0.0)
    right = difference.right.where(difference.wrong, 0.0)
    factor = (got * right).sum(axis, keepdim=True) / right.square().sum(axis, keepdim=True)
    yield "factor", (factor * right)[difference.wrong]
    counts = difference.wrong.sum(axis, keepdim=True)
    yield "offset", (right + (got - right).sum(axis, keepdim=True) / counts)[difference.wrong]


def _rounded(difference: Difference) -> Relation | None:
    """As near as numbers of fewer bits are."""
    error = (difference.mine - difference.wanted).abs()
    part = float(error.max() / difference.wanted.abs().max().clamp(min=1e-300))
    if part > _AS_ROUNDED:
        return None
    look = ("what is rounded on the way: a step in fewer bits, a difference of large numbers, "
            "a constant cut short")
    allowed = difference.allowed[difference.wrong]
    if not (allowed > 0).all():
        return Relation(f"off by at most {part:.1g} of the largest value", look)
    times = float((error / allowed).max())
    seen = f"off by at most {part:.1g} of the largest value, {times:.3g} times what rounding explains"
    return Relation(seen, look)


def _likeness(difference: Difference) -> Relation | None:
    mine, wanted = difference.mine, difference.wanted
    if len(mine) < _MANY or mine.std() == 0 or wanted.std() == 0:
        return None
    if _side_of(mine, wanted) and (wanted > 0).all():
        return None                      # to be too large says more
    likeness = float(torch.corrcoef(torch.stack([mine, wanted]))[0, 1])
    if abs(likeness) < 0.3:
        look = "which elements are used, and where results go: offsets and strides, before the formula"
        return Relation(f"no likeness to what is right (correlation {likeness:.2f})", look)
    look = "terms that are left out, counted twice or come from elsewhere; most are there"
    return Relation(f"alike, but no common factor or offset (correlation {likeness:.2f})", look)


def _side_of(mine: Tensor, wanted: Tensor) -> str:
    """On which side of the right values all wrong ones lie: in size, where the signs are the same."""
    if (mine * wanted > 0).all():
        mine, wanted = mine.abs(), wanted.abs()
    if (mine < wanted).all():
        return "small"
    if (mine > wanted).all():
        return "large"
    return ""


def _side(difference: Difference) -> Relation:
    mine, wanted = difference.mine, difference.wanted
    side = _side_of(mine, wanted)
    by = ""
    if (mine * wanted > 0).all():
        by = _range(mine / wanted)
    if side == "small":
        return Relation(f"what differs is too small{by}", "terms that are left out, or scaled down too often")
    if side == "large":
        look = "terms that are counted twice or should not count at all, such as lanes past the end"
        return Relation(f"what differs is too large{by}", look)
    return Relation(f"some are too large, some too small{by}", "which terms each of them is made of")


def _range(factors: Tensor) -> str:
    if len(factors) == 1:
        return f": {factors[0]:.4g} times what is right"
    return f": {factors.min():.3g} to {factors.max():.3g} times what is right"
