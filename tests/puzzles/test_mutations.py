"""A sample of the wrong answers that a program makes of the solutions; all of them: see mutations.py."""

import pytest

from tests.puzzles.mutations import sample, survivors

pytestmark = pytest.mark.compile


def test_a_sample_of_mutants_is_rejected():
    some = sample(every=409)
    assert len(some) > 15
    passed = [f"{mutant.puzzle}: {mutant.what}" for mutant in survivors(some, log=lambda line: None)]
    assert not passed, "\n".join(passed)
