"""Timelines: every id that ran has one seat, empty seats are told apart, figures say what they show."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiinfra.engine.record import StepRecord
from aiinfra.lab.figures import timeline

STEPS = [["a", "b"], ["a"], ["a", "c"], ["c"], []]
ARRIVALS = {"a": 0, "b": 0, "c": 1}


def test_a_request_keeps_its_seat_and_a_newcomer_takes_the_lowest_free_one():
    assert timeline.seating(STEPS, 2) == [["a", "b"], ["a", None], ["a", "c"], [None, "c"], [None, None]]
    assert timeline.seating([["b"], ["a", "b"]], 2) == [["b", None], ["b", "a"]]


def test_more_riders_than_seats_is_an_error_with_the_figures():
    with pytest.raises(ValueError, match="2 requests ran in step 0, and there are 1 seats"):
        timeline.seating(STEPS, 1)


@given(st.lists(st.sets(st.sampled_from("abcdef"), max_size=4), min_size=1, max_size=20))
def test_everybody_who_ran_has_exactly_one_seat(steps):
    for ids, row in zip(steps, timeline.seating([sorted(ids) for ids in steps], 4), strict=True):
        assert sorted(i for i in row if i) == sorted(ids)


def test_waiting_counts_those_who_have_come_and_have_never_run():
    assert timeline.waiting(STEPS, ARRIVALS) == [0, 1, 0, 0, 0]
    assert timeline.waiting([[], []], {"late": 1, "later": 7}) == [0, 1]  # who never runs waits to the end


def test_ran_reads_an_engines_records():
    record = StepRecord((("a", 0, 5), ("b", 4, 1)), (), ("a",), (), 0, 1, 1, 1, 0.0, 0.0, 0.0)
    assert timeline.ran([record]) == [["a", "b"]]


def test_the_figure_hatches_only_seats_that_somebody_could_have_had():
    figure = timeline.stack({"two seats": (STEPS, 2)}, ARRIVALS, "title")
    [ax] = figure.axes
    hatched = [bar.get_paths()[0].get_extents() for bar in ax.collections if bar.get_hatch()]
    assert [(box.x0, box.y0 < 1 < box.y1) for box in hatched] == [(1.0, True)]      # step 1, the second seat
    assert sorted(text.get_text() for text in ax.texts) == ["a", "b", "c"] and ax.get_xlim() == (0, 5)


def test_the_board_shows_the_end_of_a_long_text_and_takes_any_letter():
    figure = timeline.board([timeline.Progress("a", 1, 8, "running", "first " + "x" * 80 + "$ last"),
                             timeline.Progress("b", 0, 4, "to come", "short")], "after step 1")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert (
        texts[0] == "running"
        and texts[1].startswith("…")
        and texts[1].endswith("last")
        and texts[3] == "short"
    )
    figure.canvas.draw()                                     # a lone dollar sign must not start a formula
