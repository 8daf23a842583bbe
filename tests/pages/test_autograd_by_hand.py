"""The autograd that page 02 builds, as the page shows it, against PyTorch; its check names what is wrong."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.pages.page_files import NOTEBOOKS, code_cells, tags

PAGE = next(path for path in NOTEBOOKS if path.stem.startswith("02_"))
IMPORTS = "import itertools, math, random"


@pytest.fixture(scope="module")
def page() -> dict:
    """What the cells define in which the page builds its autograd."""
    names: dict = {}
    exec(IMPORTS, names)
    for cell in code_cells(PAGE):
        if "by-hand" in tags(cell):
            exec(cell.source, names)
    return names


@given(seed=st.integers(0, 10**9), size=st.integers(1, 40))
@settings(max_examples=100, deadline=None)
def test_random_formulas_have_the_gradients_of_pytorch(page, seed, size):
    dice = random.Random(seed)
    numbers = [dice.uniform(-3, 3) for _ in range(dice.randint(1, 5))]
    ours = [page["Value"](number) for number in numbers]
    theirs = [torch.tensor(number, dtype=torch.float64, requires_grad=True) for number in numbers]
    result = page["formula"](seed, ours, size)
    same = page["formula"](seed, theirs, size)
    page["backward"](result)
    same.backward()
    assert result.data == pytest.approx(same.item(), rel=1e-9, abs=1e-9)
    for mine, right in zip(ours, theirs, strict=True):
        assert mine.grad == pytest.approx(right.grad.item(), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("op", ["+", "*", "1/", "exp", "log", "tanh", "relu"])
def test_the_check_names_the_one_operation_that_is_wrong(page, op):
    value, slopes = page["OPS"][op]

    def wrong(*inputs):
        return tuple(slope * 1.001 for slope in slopes(*inputs))

    assert page["suspects"](page["OPS"]) == []
    assert page["suspects"](page["OPS"] | {op: (value, wrong)}) == [op]


def test_a_long_chain_needs_no_deep_stack_and_gradients_do_not_pile_up(page):
    x = page["Value"](1.0)
    end = x
    for _ in range(5000):
        end = end * 1.0
    page["backward"](end)
    page["backward"](end)
    assert x.grad == 1.0
