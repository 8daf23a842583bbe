"""Training comes near the optimum, which is known."""

import pytest
import torch
from torch import nn

from aiinfra.train.histories import World, generate, probabilities
from aiinfra.train.recommender import evaluate, training
from tests.model.small_recommender import one_thread, small_model   # noqa: F401  pytest wants the fixture

WORLD = World()
UNSEEN = 10**9                     # a seed that no training step uses


class Oracle(nn.Module):
    """Answers with the true probabilities."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(1, 1)

    def forward(self, histories, backend=None):
        last = torch.zeros(1, WORLD.items)
        return torch.cat([torch.cat((probabilities(WORLD, *user).log(), last)) for user in histories.users()])


def test_evaluate_gives_the_rules_the_best_score():
    score = evaluate(Oracle(), WORLD, generate(WORLD, 300, UNSEEN))
    assert score.accuracy == score.best and score.after_long_gap == score.best_after_long_gap
    assert score.loss == pytest.approx(score.best_loss, abs=1e-5)
    assert 0.6 < score.best < 0.8 and score.popular < 0.12 and score.repeat < 0.2


@pytest.mark.slow
def test_training_beats_popularity_and_comes_near_the_optimum():
    """Stated margins: 50 points above popularity, and at least 97 % of what anyone could get right."""
    model = small_model()
    records = list(training(model, WORLD, steps=200))
    score = evaluate(model, WORLD, generate(WORLD, 1000, UNSEEN))
    assert score.accuracy > score.popular + 0.50
    assert score.accuracy > 0.97 * score.best
    assert score.accuracy <= score.best + 0.01                     # better would mean a leak
    assert score.best_loss < score.loss < score.best_loss + 0.2
    assert score.after_long_gap > 0.9 * score.best_after_long_gap
    assert [r.step for r in records] == list(range(1, 201)) and records[-1].loss < 0.4 * records[0].loss
