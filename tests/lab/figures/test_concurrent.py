"""Bars stand where their times are, and panels share one axis."""

import pytest

from aiinfra.lab.figures.concurrent import Bar, draw_concurrent


def test_each_panel_begins_at_its_own_zero_and_all_share_the_axis():
    slow = {"rank 0": [Bar("compute", 10.0, 10.1, "0"), Bar("wait", 10.1, 10.4)]}
    quick = {"rank 0": [Bar("compute", 70.0, 70.2)], "link": [Bar("on the link", 70.1, 70.2)]}
    fig = draw_concurrent({"slow": slow, "quick": quick}, "a title")
    first, second = fig.axes
    assert first.get_xlim() == second.get_xlim() == pytest.approx((0, 400))
    starts = [path.get_extents().x0 for bars in second.collections for path in bars.get_paths()]
    assert starts == pytest.approx([0, 100])
    assert [label.get_text() for label in second.get_yticklabels()] == ["rank 0", "link"]
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["compute", "wait", "on the link"]


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'sleep' has no colour"):
        draw_concurrent({"": {"rank": [Bar("sleep", 0.0, 1.0)]}})
