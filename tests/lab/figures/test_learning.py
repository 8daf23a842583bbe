"""The learning figure: the curve so far, and lines where the baselines and the optimum are."""

from types import SimpleNamespace

import pytest

from aiinfra.lab import style
from aiinfra.lab.figures.learning import draw_learning

SCORE = SimpleNamespace(popular=0.07, repeat=0.13, best=0.7, best_loss=1.1)


def test_the_curve_and_its_lines():
    open_before = style.plt.get_fignums()
    fig = draw_learning([(1, 3.9, 0.02), (20, 2.0, 0.5)], SCORE, steps=200)
    left, right = fig.axes
    assert fig.get_suptitle() == "step 20 of 200" and left.get_xlim() == (0, 200)
    assert list(left.lines[0].get_ydata()) == [3.9, 2.0]
    assert list(right.lines[0].get_ydata()) == [2, 50]
    heights = {line.get_label(): line.get_ydata()[0] for line in right.lines[1:]}
    assert heights == pytest.approx({"optimum": 70, "repeat the last item": 13, "popularity": 7})
    assert left.lines[1].get_ydata()[0] == 1.1
    assert style.plt.get_fignums() == open_before, "a display shows it; pyplot must not show it again"
