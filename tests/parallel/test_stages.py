"""A model is cut as evenly as can be, and what cannot be cut is refused with its figures."""

from itertools import combinations

import pytest

from aiinfra.parallel.schedule import ScheduleError
from aiinfra.parallel.stages import balanced, multiplications
from tests.parallel.small import small_model


def dearest(costs, cuts, first, last) -> float:
    sums = [sum(costs[index] for index in cut) for cut in cuts]
    sums[0] += first
    sums[-1] += last
    return max(sums)


@pytest.mark.parametrize("costs, stages, first, last", [
    ([1] * 8, 4, 0, 0), ([1] * 7, 3, 0, 2.5), ([3, 1, 1, 1, 4, 1], 3, 1, 0), ([1] * 9, 4, 0.5, 6),
    ([5, 1, 1, 1, 1, 1, 1, 1, 1], 5, 0, 1)])
def test_no_cut_has_a_cheaper_dearest_stage(costs, stages, first, last) -> None:
    cuts = balanced(costs, stages, first, last)
    assert [index for cut in cuts for index in cut] == list(range(len(costs))) and all(map(len, cuts))
    best = min(
        dearest(costs, [range(a, b) for a, b in zip((0, *inner), (*inner, len(costs)))], first, last)
        for inner in combinations(range(1, len(costs)), stages - 1))
    assert dearest(costs, cuts, first, last) == best


def test_among_the_cheapest_cuts_the_most_even_one() -> None:
    assert list(map(len, balanced([1] * 10, 4, last=2))) == [3, 3, 3, 1]
    assert list(map(len, balanced([1] * 6, 4))) in ([2, 2, 1, 1], [1, 1, 2, 2], [1, 2, 1, 2], [2, 1, 1, 2])
    assert list(map(len, balanced([1.0] * 12, 4, last=1.5))) == [3, 3, 4, 2]


def test_the_last_layer_weighs_what_it_multiplies() -> None:
    model = small_model()
    attention = 24 * (8 + 2 * 4) * 6 + 8 * 6 * 24
    assert multiplications(model.layers[0], model) == attention + 3 * 24 * 32


def test_too_few_layers_are_refused() -> None:
    with pytest.raises(ScheduleError, match="3 layers, and 4 stages need at least one each: take fewer"):
        balanced([1, 1, 1], 4)
