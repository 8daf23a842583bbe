"""Histories follow the rules that their probabilities say."""

from dataclasses import replace

import torch

from aiinfra.train.histories import World, generate, probabilities

WORLD = World()
UNSEEN = 10**9                     # a seed that no training step uses


def test_histories_are_well_formed_and_repeatable():
    a, b, other = generate(WORLD, 40, 7), generate(WORLD, 40, 7), generate(WORLD, 40, 8)
    assert torch.equal(a.items, b.items) and torch.equal(a.seconds, b.seconds)
    assert not torch.equal(a.items[:100], other.items[:100])
    lengths = a.offsets.diff()
    assert len(a) == 40 and lengths.min() >= WORLD.shortest and lengths.max() <= WORLD.longest
    assert a.offsets[-1] == len(a.items) == len(a.seconds)
    assert all((seconds.diff() > 0).all() for _, seconds in a.users())


def test_probabilities_are_those_of_the_generator():
    histories = generate(WORLD, 2000, UNSEEN)
    truth = torch.cat([probabilities(WORLD, *user) for user in histories.users()]).double()
    target = torch.cat([items[1:] for items, _ in histories.users()])
    torch.testing.assert_close(truth.sum(-1), torch.ones(len(truth), dtype=torch.float64))
    # Each item came up as often as the sum of its chances says, and so did the likeliest one.
    expected, spread = truth.sum(0), (truth * (1 - truth)).sum(0).sqrt()
    assert ((target.bincount(minlength=WORLD.items) - expected).abs() < 5 * spread).all()
    likeliest = truth.max(-1)
    hits = (likeliest.indices == target).double().sum()
    assert (hits - likeliest.values.sum()).abs() < 4 * (
        likeliest.values * (1 - likeliest.values)
    ).sum().sqrt()


def test_probabilities_use_the_past_only():
    items, seconds = max(generate(WORLD, 5, 1).users(), key=lambda user: len(user[0]))
    changed = items.clone()
    changed[8:] = 0
    assert torch.equal(probabilities(WORLD, items, seconds)[:8], probabilities(WORLD, changed, seconds)[:8])


def test_long_gap_follows_the_users_own_counts():
    world = replace(WORLD, noise=0.0)
    day = 86_400
    truth = probabilities(world, torch.tensor([3, 4, 3, 3, 9]), torch.tensor([0, 1, 2, 3, day]))
    assert truth[3, 3] == 0.75 and truth[3, 4] == 0.25 and truth[3].sum() == 1
    assert truth[0, world.successor[3]] == 1
