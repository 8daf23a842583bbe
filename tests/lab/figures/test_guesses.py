"""Bets and drafts are drawn where their numbers are."""

import pytest
import torch

from aiinfra.lab.figures.guesses import draw_bet, draw_drafts


def test_a_bet_names_the_best_number_of_guesses():
    fig = draw_bet([1, 1.5, 1.7], [1, 1.4, 1.2], a=0.75, c=0.1)
    [ax] = fig.axes
    assert ax.get_title().endswith("best with 1: 1.40 times as fast here")
    assert [list(line.get_ydata()) for line in ax.lines] == [[1, 1.5, 1.7], [1, 1.4, 1.2]]


def test_a_bet_that_cannot_win_says_so():
    [ax] = draw_bet([1, 0.9], [1, 0.8], a=0.1, c=0.5).axes
    assert ax.get_title().endswith("do not guess at all")


def test_drafts_stand_at_their_price_and_rate():
    prices, rates = torch.linspace(0.01, 1, 20), torch.linspace(0, 0.99, 20)
    best = 1 + 4 * rates[:, None] * (1 - prices)[None, :].clamp(min=0)
    [ax] = draw_drafts(prices, rates, best, {"a copy": (0.7, 0.4)}).axes
    places = [(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines]
    assert places == [pytest.approx((0.4, 0.7)), pytest.approx((0.04, 0.875))]
    assert "a copy" in [text.get_text() for text in ax.texts]
