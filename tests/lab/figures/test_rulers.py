"""Weights on their rulers: as many marks as the bits allow, and bars as wide as two standard errors."""

import math

import pytest
import torch

from aiinfra.lab.figures.rulers import draw_answers, draw_rulers


def test_each_group_has_its_marks():
    weights = torch.linspace(-1, 1, 192).view(2, 96)
    fig = draw_rulers(weights, weights.round(), group=48, bits=2, title="two bits")
    [ax] = fig.axes
    marks = [len(lines.get_segments()) for lines in ax.collections]
    assert marks == [4, 4, 96], "4 marks for each of two groups, and a way for each of 96 weights"
    assert ax.get_title() == "two bits"


def test_the_change_of_perplexity_is_a_ratio_with_its_error():
    nats = torch.tensor([0.1, 0.3] * 50)
    left, right = draw_answers({8: 98.0, 4: 72.0}, {8: torch.zeros(100), 4: nats}).axes
    assert list(left.lines[0].get_ydata()) == [98, 72]
    [bars] = right.containers
    assert bars.lines[0].get_ydata()[1] == pytest.approx(100 * (math.exp(0.2) - 1), rel=1e-4)
    low, high = bars.lines[2][0].get_segments()[1][:, 1]
    error = 2 * nats.std().item() / 10
    assert low == pytest.approx(100 * (math.exp(0.2 - error) - 1), rel=1e-3)
    assert high == pytest.approx(100 * (math.exp(0.2 + error) - 1), rel=1e-3)
