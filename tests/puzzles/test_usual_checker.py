"""The usual checker of notebook 09: what it accepts, and that a wrong kernel cannot hurt the survey."""

import math

import pytest

from puzzles.usual_checker import KnownAnswer, Outcome, accepts, known_answers, survey

pytestmark = pytest.mark.program              # the survey starts a process for each kernel
_KERNEL = """
import triton
import triton.language as tl
import os

@triton.jit
def add_blocks(x_ptr, z_ptr, N, c, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offsets, mask={load})
    {before}
    tl.store(z_ptr + offsets, x + {add}, mask=offsets < N)
"""


def answer(load: str = "offsets < N", add: str = "c", before: str = "pass") -> KnownAnswer:
    text = _KERNEL.format(load=load, add=add, before=before)
    return KnownAnswer(puzzle="add_blocks", what="test", text=text, right=False)


@pytest.fixture(scope="module")
def seen() -> dict[str, list[Outcome]]:
    clears_x = "tl.store(x_ptr + offsets, -c + 0 * offsets, mask=offsets < N); x = 0 * x - c"
    answers = {"right": answer(), "no mask in the load": answer(load="None"),
               "too large": answer(add="c + 0.01"),
               "size 200": answer(load="offsets < 32"), "raises": answer(add="missing"),
               "dies": answer(before="os.abort()"), "clears x": answer(add="c", before=clears_x)}
    return dict(zip(answers, survey(list(answers.values()))))


def test_right_answers_need_almost_no_tolerance(seen):
    assert len(seen["right"]) == 4 and all(one.unchanged for one in seen["right"])
    assert accepts(seen["right"], shapes=99, tolerance=1e-6, spec_first=True)


def test_values_say_nothing_about_reads_out_of_bounds(seen):
    assert accepts(seen["no mask in the load"], shapes=99, tolerance=1e-6)


def test_tolerance_decides_about_small_errors(seen):
    assert accepts(seen["too large"], 99, tolerance=1e-1)
    assert not accepts(seen["too large"], 99, tolerance=1e-3)


def test_a_fixed_size_passes_on_its_own_shape_only(seen):
    assert accepts(seen["size 200"], shapes=1) and not accepts(seen["size 200"], shapes=2)


def test_the_spec_after_the_kernel_believes_a_changed_input(seen):
    assert accepts(seen["clears x"], shapes=1) and not accepts(seen["clears x"], shapes=1, spec_first=True)


@pytest.mark.parametrize("name", ["raises", "dies"])
def test_a_kernel_that_ends_early_is_rejected(seen, name):
    assert seen[name] == [Outcome(math.inf, math.inf, True)]


def test_known_answers_leave_out_what_is_right_but_wasteful():
    answers = known_answers(["online_softmax"])
    assert [one.right for one in answers].count(True) == 1
    names = {one.what for one in answers}
    assert "wrong by 10 %" in names and "three walks" not in names
