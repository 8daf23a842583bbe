"""What is drawn from is the distribution that the parameters describe, and a draw follows it."""

import pytest
import torch
from transformers import (MinPLogitsWarper, RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper,
                          TopKLogitsWarper, TopPLogitsWarper)

from aiinfra import SamplingParams
from aiinfra.engine.likelihood import draw, draw_key, likelihoods, probabilities, waits
from aiinfra.engine.sampler import Choosing, Sampler, choose

SETTINGS = [{}, {"temperature": 0.3}, {"top_k": 5}, {"top_p": 0.6}, {"min_p": 0.2},
            {"repetition_penalty": 1.3}, {"repetition_penalty": 0.7},
            {"top_k": 20, "top_p": 0.8, "temperature": 1.7}, {"top_k": 1}, {"top_p": 1e-6}, {"top_k": 1000},
            {"min_p": 1.0},
            {"repetition_penalty": 1.5, "temperature": 0.6, "top_k": 40, "top_p": 0.95, "min_p": 0.02}]


def transformers_distribution(logits: torch.Tensor, params: SamplingParams, seen: list[int]) -> torch.Tensor:
    """[V], through transformers' own processors in its own order."""
    scores, ids = logits[None], torch.tensor([seen])
    if params.repetition_penalty != 1:
        scores = RepetitionPenaltyLogitsProcessor(params.repetition_penalty)(ids, scores)
    scores = TemperatureLogitsWarper(params.temperature)(ids, scores) if params.temperature != 1 else scores
    scores = TopKLogitsWarper(min(params.top_k, len(logits)))(ids, scores) if params.top_k > 0 else scores
    scores = TopPLogitsWarper(params.top_p)(ids, scores) if params.top_p < 1 else scores
    scores = MinPLogitsWarper(params.min_p)(ids, scores) if params.min_p > 0 else scores
    return scores[0].softmax(-1)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("vocabulary", [100, 7000])
def test_the_distribution_is_transformers(settings: dict, vocabulary: int) -> None:
    torch.manual_seed(0)
    params, seen = SamplingParams(**settings), [3, 17, 3, 64]
    logits = torch.randn(vocabulary) * 3
    expected = transformers_distribution(logits, params, seen)
    drawn_from = {}

    def caught(likelihood, keys):
        drawn_from["p"] = likelihood[0] / likelihood[0].sum()
        return draw(likelihood, keys)
    with pytest.MonkeyPatch.context() as patch:                          # what `choose` really draws from
        patch.setattr("aiinfra.engine.sampler.draw", caught)
        choose(logits[None], [Choosing(params, 5, seen)])
    torch.testing.assert_close(drawn_from["p"], expected)
    if params.repetition_penalty == 1:
        torch.testing.assert_close(probabilities(logits, params), expected)


def test_a_flat_distribution_needs_more_than_the_first_candidates() -> None:
    """top-p is looked for in 64 tokens, then 4096, then all: here in each."""
    torch.manual_seed(0)
    logits = torch.stack([torch.randn(20_000) * scale for scale in (20, 3, 0.1, 2)])
    params = [SamplingParams(top_p=p) for p in (0.9, 0.9, 0.9, 0.5)]
    kept = (likelihoods(logits, params) > 0).sum(-1).tolist()
    assert kept[0] < 64 < kept[1] < 4096 < kept[2]
    for row, one in zip(logits, params):
        torch.testing.assert_close(probabilities(row, one), transformers_distribution(row, one, []),
                                   rtol=1e-4, atol=1e-9)


def test_equally_likely_tokens_stay_or_go_together() -> None:
    logits = torch.tensor([1.0, 2.0, 2.0, 0.0, 2.0])
    for settings in ({"top_k": 1}, {"top_k": 2}, {"top_p": 0.1}, {"top_p": 0.5}, {"top_k": 2, "top_p": 0.9}):
        kept = probabilities(logits, SamplingParams(**settings)) > 0
        assert kept.tolist() == [False, True, True, False, True]


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.7, "top_k": 6}, {"top_p": 0.8},
                                      {"min_p": 0.1, "temperature": 1.5}])
def test_draws_follow_the_distribution(settings: dict) -> None:
    """Chi-square over 12 tokens, one of them impossible."""
    torch.manual_seed(0)
    logits = torch.randn(12).index_fill(0, torch.tensor([4]), -torch.inf)
    params, draws = SamplingParams(seed=3, **settings), 6000
    sampler = Sampler(params)
    counts = torch.bincount(torch.tensor([sampler(logits) for _ in range(draws)]), minlength=12)
    expected = draws * transformers_distribution(logits, params, [])
    assert counts[expected == 0].sum() == 0 and counts[4] == 0
    counts, expected = counts[expected > 0], expected[expected > 0]
    chi_square, freedom = float(((counts - expected) ** 2 / expected).sum()), len(expected) - 1
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5               # mean and four standard deviations


def test_rounding_seldom_changes_a_draw() -> None:
    """Logits of other company differ by some 1e-5. One number on a running sum would change more than 1 in
    100 of these."""
    torch.manual_seed(0)
    logits = torch.randn(49_152) * 2
    params, changed = SamplingParams(), 0
    for key in range(600):
        near = logits + (torch.rand(49_152) - 0.5) * 4e-5
        first, second = (draw(likelihoods(some[None], [params]), [key * 0x9E3779B97F4A7C15 % 2**64])
                         for some in (logits, near))
        changed += int(first != second)
    assert changed <= 1


def test_draws_over_a_large_vocabulary() -> None:
    """Every id has its own number: all are drawn, neighbours and neighbouring keys know nothing of each
    other."""
    flat = torch.ones(1, 200_000)
    ids = torch.tensor([draw(flat, [draw_key(1, 0, place)]).item() for place in range(400)],
                       dtype=torch.float64)
    assert len(ids.unique()) > 395 and abs(ids.mean() / 200_000 - 0.5) < 4 * (1 / 12 / 400) ** 0.5
    some = waits([draw_key(7, 0, place) for place in range(4)], 200_000, flat.device).double()    # [4, V]
    assert bool((some > 0).all()) and bool(((some.mean(-1) - 1).abs() < 4 / 200_000**0.5).all())
    # where races are won
    assert bool((((some < 0.01).double().mean(-1) - 0.00995).abs() < 4 * (0.00995 / 200_000) ** 0.5).all())
    pairs = torch.corrcoef(torch.cat([some[:, :-1], some[:1, 1:]]))    # rows, and a neighbour
    assert (pairs - torch.eye(5)).abs().max() < 5 / 200_000**0.5


@pytest.mark.parametrize("each", [1e-5, 1e-6, 3e-7])
def test_many_unlikely_tokens_are_drawn_as_often_as_their_sum_says(each: float) -> None:
    likelihood = torch.full((1, 49_152), each)
    likelihood[0, 0] = 1
    p, draws = 49_151 * each / (1 + 49_151 * each), 3000
    unlikely = sum(draw(likelihood, [draw_key(3, 0, place)]).item() > 0 for place in range(draws))
    assert abs(unlikely - p * draws) < 4 * (p * (1 - p) * draws) ** 0.5


def test_what_is_impossible_is_never_drawn() -> None:
    likelihood = torch.tensor([[0, 1e-30, 0, 1e-38, 0]])
    assert {draw(likelihood, [draw_key(0, 0, place)]).item() for place in range(300)} == {1}


def test_keys_depend_on_seed_answer_and_place() -> None:
    keys = [draw_key(seed, answer, place) for seed in (0, 1, -1, 2**63) for answer in range(3)
            for place in range(200)]
    assert all(0 <= key < 2**64 for key in keys) and len(set(keys)) == len(keys)


def test_a_tiny_temperature_is_nearly_greedy() -> None:
    logits = torch.tensor([1.0, 3.0, 2.0])
    assert probabilities(logits, SamplingParams(temperature=1e-40)).tolist() == [0, 1, 0]
