"""A recommender sees each user's past and nothing else, on either path of its kernels."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from aiinfra.device import default_device
from aiinfra.model.recommender import RecommenderConfig
from aiinfra.train.histories import World, generate
from tests.model.small_recommender import one_thread, small_model   # noqa: F401  pytest wants the fixture

WORLD = World()


def test_next_items():
    histories = generate(WORLD, 3, 0)
    following = histories.next_items()
    for (items, _), part in zip(histories.users(), following.split(histories.offsets.diff().tolist())):
        assert torch.equal(part[:-1], items[1:]) and part[-1] == -100


def test_no_event_sees_the_future_or_another_user():
    histories, model = generate(WORLD, 4, 3), small_model()
    at = histories.offsets[2].item() + 3                           # event 3 of user 2
    items = histories.items.clone()
    items[at] = (items[at] + 1) % WORLD.items
    before, after = model(histories), model(replace(histories, items=items))
    differs = (before != after).any(-1)
    end = histories.offsets[3].item()
    assert differs[at:end].all() and not differs[:at].any() and not differs[end:].any()


def test_the_time_of_the_next_event_counts():
    histories, model = generate(WORLD, 2, 3), small_model()
    nn.init.normal_(model.layers[0].time_table)
    later = histories.seconds.clone()
    later[5:histories.offsets[1]] += 86_400
    differs = (model(histories) != model(replace(histories, seconds=later))).any(-1)
    assert differs[4] and not differs[:4].any()                    # event 4 is dated by event 5


def test_fused_kernels_give_the_same_loss_and_gradients():
    histories = generate(replace(WORLD, longest=10), 3, 5).to(default_device())
    results = []
    for backend in ("torch", "triton"):
        model = small_model(layers=1, width=16, heads=2, max_len=10).to(default_device())
        loss = model.loss(histories, backend)
        loss.backward()
        results.append([loss] + [p.grad for p in model.parameters()])
    for plain, fused in zip(*results, strict=True):
        assert (plain - fused).norm() <= 1e-5 * plain.norm() + 1e-8


def test_loss_is_torchs_cross_entropy():
    histories, model = generate(WORLD, 5, 2), small_model()
    wanted = F.cross_entropy(model(histories), histories.next_items())
    torch.testing.assert_close(model.loss(histories), wanted)


def test_unknown_size_names_the_nearest():
    with pytest.raises(TypeError, match="Did you mean 'width'"):
        RecommenderConfig(widht=8)
