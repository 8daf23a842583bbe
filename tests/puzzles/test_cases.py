"""What occurs in one judgement of a puzzle: every size, block and number takes several values, none like
another's, and none is written down as the largest.
"""

from itertools import combinations

import pytest

from puzzles.catalogue import PUZZLES
from puzzles.puzzle import Puzzle
from puzzles.tensors import Size

each_puzzle = pytest.mark.parametrize("puzzle", PUZZLES.values(), ids=lambda puzzle: puzzle.name)


def _values(puzzle: Puzzle) -> dict[str, list[float]]:
    """Of each size, number and block: what it is in each case of a judgement."""
    names = (*puzzle.scalars, *puzzle.blocks)
    return {name: [case.sizes[name] for case in puzzle.cases_of(seed=5)] for name in names}


@each_puzzle
def test_every_size_takes_at_least_two_values(puzzle):
    same = [name for name, values in _values(puzzle).items() if len(set(values)) < 2]
    assert not same, f"{puzzle.name}: a constant may stand for {same}"


@each_puzzle
def test_no_two_sizes_are_always_the_same(puzzle):
    values = _values(puzzle)
    same = [pair for pair in combinations(values, 2) if values[pair[0]] == values[pair[1]]]
    assert not same, f"{puzzle.name}: {same} may be exchanged"


@each_puzzle
def test_some_size_is_another_in_every_judgement(puzzle):
    if Size in puzzle.scalars.values():
        grown = {str(case) for seed in range(30) for case in puzzle.cases_of(seed)}
        assert len(grown) > len(puzzle.cases), "a constant may be large enough for every case"


@each_puzzle
def test_a_walk_over_a_strided_tensor_meets_both_layouts(puzzle):
    if any(tensor.strides for tensor in puzzle.tensors.values()):
        assert {case.layout for case in puzzle.cases} >= {0, 1, 2}
