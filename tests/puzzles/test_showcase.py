"""Verdicts to look at: the judge on answers whose verdict is known."""

import pytest

from puzzles.showcase import judge_all, verdict_on
from puzzles.usual_checker import known_answers


@pytest.mark.slow
def test_the_judge_tells_right_from_wrong_and_keeps_the_order():
    answers = known_answers(["add_constant"])
    assert [verdict.passed for verdict in judge_all(answers)] == [one.right for one in answers]


def test_a_wrong_answer_is_asked_for_by_its_name():
    assert verdict_on("online_softmax", "wrong by 10 %").kinds[0] == "wrong_value"
    with pytest.raises(ValueError, match="add_constant has no wrong answer 'nothing'; there are '"):
        verdict_on("add_constant", "nothing")
