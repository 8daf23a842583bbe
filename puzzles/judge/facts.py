"""What is known about a case when its values are wrong: its numbers by name, and what is new in it.

    case 1  N=32,  BLOCK=32   passed
    case 2  N=200, BLOCK=64   wrong    ──►   N = 200 is more than one BLOCK, and no multiple of it

Cases go from small to large, and each brings something that those before did not have. So what is new in the
first that fails is the best guess at the cause.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from puzzles.puzzle import Case, Puzzle
from puzzles.tensors import Number, Size, Tensor

_MOST_TOLD = 4


@dataclass(frozen=True)
class Facts:
    """Numbers and blocks by name, a letter for each dimension of each output, and what is new, or ""."""

    numbers: Mapping[str, float] = field(default_factory=dict)
    blocks: Mapping[str, int] = field(default_factory=dict)
    axes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    new: str = ""


def facts(puzzle: Puzzle, case: Case, passed: Sequence[Case]) -> Facts:
    """What is known about a case, after those that passed."""
    return Facts(
        numbers=case.sizes,
        blocks={name: case.sizes[name] for name in puzzle.blocks if name.startswith("BLOCK")},
        axes={name: _letters(tensor) for name, tensor in puzzle.outputs.items()},
        new=_news(puzzle, case, passed),
    )


def _letters(tensor: Tensor) -> tuple[str, ...]:
    """A letter for each dimension; none if one has only a number."""
    if any(dim.isdigit() for dim in tensor.dims):
        return ()
    return tuple(tensor.axes)


def _news(puzzle: Puzzle, case: Case, passed: Sequence[Case]) -> str:
    """What is true of this case and of none that passed."""
    if not passed:
        return ""
    known = {key for one in passed for key, _ in _traits(puzzle, one)}
    new = [said for key, said in _traits(puzzle, case) if key not in known]
    if not new:
        new = [f"{name} = {value}" for name, value in case.sizes.items()
               if all(value != one.sizes[name] for one in passed)]
    return ", ".join(new[:_MOST_TOLD])


def _traits(puzzle: Puzzle, case: Case) -> Iterator[tuple[Any, str]]:
    """(what identifies a trait, the trait in words)."""
    if case.layout:
        yield "strides", "strides that are not those of a contiguous tensor"
    if case.make:
        yield case.make, case.make.__name__.replace("_", " ")
    if case.scale > 1:
        yield "large", f"values x {case.scale:g}"
    if case.shift:
        yield "shift", f"values + {case.shift:g}"
    sizes = case.sizes
    yield from _heads(sizes)
    for size, block in pairs(puzzle):
        if sizes[size] > sizes[block]:
            yield (size, block, "longer"), f"{size} = {sizes[size]} is more than one {block}"
        if sizes[size] % sizes[block]:
            ragged = f"{size} = {sizes[size]} is no multiple of {block} = {sizes[block]}"
            yield (size, block, "ragged"), ragged
    for name, kind in puzzle.scalars.items():
        if kind is Number:
            yield (name, sizes[name]), f"{name} = {sizes[name]:g}"
        elif kind is Size:
            yield (name, sizes[name] > 1), f"{name} = {sizes[name]}"


def _heads(sizes: Mapping[str, float]) -> Iterator[tuple[Any, str]]:
    """Where K key heads serve H query heads."""
    if "H" in sizes and "K" in sizes and sizes["H"] > sizes["K"]:
        yield "group", f"{sizes['H'] // sizes['K']} query heads share a key head"
        if sizes["K"] > 1:
            yield "groups", f"H = {sizes['H']} query heads and K = {sizes['K']} key heads"


def pairs(puzzle: Puzzle) -> list[tuple[str, str]]:
    """(size, block that cuts it): BLOCK_M cuts M, and BLOCK what the grid says, or else the last dimension.
    """
    found = []
    for block in puzzle.blocks:
        size = block.removeprefix("BLOCK_")
        if block == "BLOCK":
            size = _cut_by_block(puzzle)
        if size in puzzle.scalars and block.startswith("BLOCK"):
            found.append((size, block))
    return found


def _cut_by_block(puzzle: Puzzle) -> str:
    in_the_grid = re.search(r"cdiv\((\w+), BLOCK\)", ", ".join(puzzle.grid or ()))
    if in_the_grid:
        return in_the_grid[1]
    first = next(iter(puzzle.inputs.values()))
    return first.dims[-1]
