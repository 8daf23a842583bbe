"""Strips of work: overlaps count once, gaps are counted, and the titles say both."""

import pytest

from aiinfra.lab.figures.lanes import lanes, merge


def test_merging() -> None:
    assert merge([(3, 4), (0, 1)]) == [(0, 1), (3, 4)]
    assert merge([(0, 10), (1, 2), (9, 12)]) == [(0, 12)]
    assert merge([(0, 1), (1, 2)]) == [(0, 1), (1, 2)]           # two kernels back to back are two
    assert merge([]) == []


def titles(figure) -> list[str]:
    return [ax.get_title(loc="left") for ax in figure.axes]


def test_titles_count_pieces_gaps_and_idle_time() -> None:
    figure = lanes({"a": [(0.0, 1.0), (3.0, 4.0)], "b": [(1.0, 2.0), (2.0, 3.0)]}, unit="s")
    assert titles(figure) == [
        "a: 2 pieces of work, 1 gap, idle 50 %",
        "b: 2 pieces of work, 0 gaps, idle 0 %",
    ]
    assert (
        figure.axes[0].get_xlim() == figure.axes[1].get_xlim() == (0, 4)
        and figure.axes[-1].get_xlabel() == "time [s]"
    )


def test_a_length_clips_each_strip_from_its_own_start() -> None:
    figure = lanes(
        {"late": [(10.0, 11.0), (12.0, 20.0), (30.0, 31.0)]}, unit="ms", length=4.0, note="a model"
    )
    assert titles(figure) == ["late: 2 pieces of work, 1 gap, idle 25 %"]
    assert figure.axes[0].get_xlim() == (0, 4000) and figure.axes[0].get_xlabel() == "time [ms]; a model"


def test_nothing_to_draw() -> None:
    with pytest.raises(ValueError, match="'empty' has no spans"):
        lanes({"empty": []})
