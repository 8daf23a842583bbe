"""A sample of the wrong answers that a program makes of the solutions; all of them: see mutations.py."""

import pytest

from tests.puzzles.mutations import sample, survivors

pytestmark = pytest.mark.compile


def test_a_sample_of_mutants_is_rejected():
    some = sample(every=149)
    assert len(some) > 40
    passed = [f"{mutant.puzzle}: {mutant.what}" for mutant in survivors(some, log=lambda line: None)]
    assert not passed, "\n".join(passed)
