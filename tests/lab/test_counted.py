"""What pages count: operations asked for, and the tokens of users who ask for the same."""

import pytest
import torch

from aiinfra.engine import SamplingParams
from aiinfra.lab.counted import Decoded, count_operations, decode
from tests.engine.small_model import engine_with, random_model


def test_every_operation_counts_once_views_included():
    x = torch.ones(4, 4)
    assert count_operations(lambda: x + 1) == 1
    assert count_operations(lambda: x.T @ x) == 2
    assert count_operations(lambda: None) == 0


def test_decode_counts_the_steps_in_which_no_prompt_is_read():
    engine = engine_with(random_model(), blocks=64)
    params = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)
    seen = decode(engine, [1, 2, 3], users=3, params=params)
    assert list(seen.answers) == ["0 of 3", "1 of 3", "2 of 3"]
    assert len({tuple(answer) for answer in seen.answers.values()}) == 1 and len(seen.answers["0 of 3"]) == 5
    assert seen.tokens <= 3 * 5 - 3 and seen.steps >= 4, "a first token comes with its prompt"
    assert seen.rate > 0 and seen.other_ms > 0


def test_rates_leave_nothing_out():
    seen = Decoded(tokens=30, steps=10, model_seconds=0.4, other_seconds=0.2)
    assert seen.rate == pytest.approx(50)
    assert seen.model_ms == pytest.approx(40) and seen.other_ms == pytest.approx(20)
