"""Right answers in unusual valid forms are accepted. All of them by twenty seeds, and compiled:

    python -m tests.puzzles.accepted --seeds 20
"""

from collections import Counter

import pytest

from puzzles.catalogue import PUZZLES
from tests.puzzles.accepted import all_accepted
from tests.puzzles.accepted.__main__ import refusals

pytestmark = pytest.mark.compile


def test_every_puzzle_has_right_answers_in_several_forms():
    answers = all_accepted()
    forms = Counter(answer.puzzle for answer in answers)
    assert len(answers) >= 100 and forms.keys() == PUZZLES.keys()
    assert min(forms.values()) >= 3, forms
    assert len({(answer.puzzle, answer.what) for answer in answers}) == len(answers)


@pytest.mark.parametrize("name", PUZZLES)
def test_right_answers_in_unusual_forms_are_accepted(name):
    said = []
    for answer in all_accepted():
        if answer.puzzle == name:
            said += [f"{answer.what}\n{verdict}" for verdict in refusals(answer, seeds=range(2))]
    assert not said, "\n\n".join(said)
