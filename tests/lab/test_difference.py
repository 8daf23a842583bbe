"""What is seen in a wrong answer: places, and relations that hold for all that differs."""

import pytest
import torch

from aiinfra.lab.difference import Difference, relation, where
from aiinfra.lab.exercise import Wrong, close

RIGHT = torch.randn(6, 40, generator=torch.Generator().manual_seed(1)).double() + 3


def seen(got, right=RIGHT, allowed=1e-6, **more):
    allowed = torch.full_like(right, allowed)
    return Difference(got=got, right=right, wrong=(got - right).abs() > allowed, allowed=allowed, **more)


def changed(at, change):
    got = RIGHT.clone()
    got[at] = change(got[at])
    return got


@pytest.mark.parametrize(
    "at, words",
    [
        ((slice(1, 5, 3),), "row 1 and 4 (of 6)"),
        ((slice(None), slice(32, 40)), "column from 32 on (of 40), where a block of BLOCK = 16 begins"),
        ((slice(None), slice(0, 3)), "column up to 2 (of 40)"),
        ((slice(None), slice(1, None, 4)), "column 1 and every 4 further (of 40)"),
        ((2, slice(5, 9)), "row 2 alone (of 6), column 5 to 8 (of 40)"),
        ((slice(None),), ""),
    ],
)
def test_places(at, words):
    assert where(seen(changed(at, lambda values: values + 1), blocks=dict(BLOCK=16))) == words


def test_a_triangle_is_a_place():
    square = RIGHT[:, :6]
    above, below = torch.ones(6, 6).triu(1), torch.ones(6, 6).tril(-1)
    assert where(seen(square + above, square)) == "all above the diagonal, and nothing else"
    assert where(seen(square + below, square)) == "all below the diagonal, and nothing else"


@pytest.mark.parametrize(
    "got, words",
    [
        (RIGHT * 4, "all are 4 times what is right"),
        (RIGHT / 16, "all are 0.0625 times what is right (1 / BLOCK)"),
        (RIGHT * 1.4426950408889634, "all are 1.4427 times what is right (log2(e))"),
        (RIGHT * 1.0001, "all are 1.0001 times what is right"),
        (-RIGHT, "wrong sign"),
        (RIGHT - 2, "all are off by -2"),
        (RIGHT * 0, "what differs is 0"),
        (RIGHT.flip(0), "the values are right, but in other places: row 0 holds what belongs to row 5"),
        (RIGHT.roll(1, 0), "row 0 holds what belongs to row 5"),
        (torch.cat([RIGHT[1:], RIGHT[-1:]]), "each row holds what belongs 1 further"),
        (RIGHT[[1, 0, 2, 3, 4, 5]], "row 0 holds what belongs to row 1"),
        (RIGHT * torch.arange(1, 7)[:, None], "along column, all have the same factor"),
        (RIGHT + torch.arange(1, 7)[:, None], "along column, all have the same offset"),
        (RIGHT + torch.randn(6, 40).double() * 1e-3, "times what rounding explains"),
        (RIGHT * 0.5 + torch.rand(6, 40).double() - 2.5, "alike"),
        (torch.randn(6, 40, generator=torch.Generator().manual_seed(9)).double(), "no likeness"),
    ],
)
def test_relations(got, words):
    found = relation(seen(got, numbers=dict(BLOCK=16)))
    assert words in found.seen and found.look_at


def test_a_transposed_matrix_is_named():
    square = RIGHT[:, :6]
    assert "transposed" in relation(seen(square.T, square)).seen


def test_a_single_value_is_at_least_too_small_or_named():
    one = torch.tensor([3.0]).double()
    assert relation(seen(one * 0.7, one)).seen == "what differs is too small: 0.7 times what is right"
    assert "(√D)" in relation(seen(one * 8, one, numbers=dict(D=64))).seen
    assert "too large" in relation(seen(one + 7, one)).seen


def test_a_relation_that_holds_for_most_is_not_told():
    got = RIGHT * 4
    got[3, 7] += 1
    assert "4 times" not in relation(seen(got)).seen


def test_close_tells_what_is_seen():
    def said(got):
        with pytest.raises(Wrong) as wrong:
            close(got, RIGHT, "the output")
        return str(wrong.value)
    assert said(RIGHT / 4).endswith("240 of 240 values differ; all are 0.25 times what is right.")
    got = changed((2, 3), lambda value: value * 0 + 7)
    text = said(got)
    assert text.startswith("the output: you have […, 7, ")
    assert "1 of 240 values differ; row 2 alone (of 6)" in text
    with pytest.raises(Wrong, match=r"the slope: you have 3; 4 is wanted\.$"):
        close(3.0, 4.0, "the slope")
