"""The sampler draws from the distribution that the parameters describe, and no row notices the others."""

import random

import pytest
import torch

from aiinfra import SamplingParams
from aiinfra.engine.likelihood import draw, draw_key, likelihoods, probabilities
from aiinfra.engine.sampler import Choosing, Sampler, choose, start_choosing


def random_params(rng: random.Random) -> SamplingParams:
    return SamplingParams(temperature=rng.choice([0, 0.5, 1, 1.7]), top_k=rng.choice([0, 0, 5, 40]),
                          top_p=rng.choice([1, 0.9, 0.5]),
                          min_p=rng.choice([0, 0.05]), repetition_penalty=rng.choice([1, 1.2]),
                          seed=rng.randrange(100),
                          logprobs=rng.choice([None, None, 0, 3]))


@pytest.mark.parametrize("vocabulary, rounds", [(53, 120), (1000, 30), (49152, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_does_not_notice_the_others(vocabulary: int, rounds: int, dtype: torch.dtype) -> None:
    """Bit for bit: the likelihoods that are drawn from, as a GPU computes them for all rows at once, and
    the choice."""
    rng = random.Random(vocabulary)
    torch.manual_seed(vocabulary)
    for _ in range(rounds):
        size = rng.randrange(2, 10)
        logits = (torch.randn(size, vocabulary) * rng.choice([0.5, 3])).to(dtype)    # bfloat16: many ties
        samplers = [Sampler(random_params(rng), [rng.randrange(vocabulary) for _ in range(20)])
                    for _ in range(size)]
        rows = [s.choosing(banned=[rng.randrange(vocabulary)] if rng.random() < 0.3 else ())
                for s in samplers]
        together = choose(logits, rows)
        for i, row in enumerate(rows):
            [alone] = choose(logits[i:i + 1].clone(), [row])
            assert alone.token_id == together[i].token_id
            assert (alone.logprobs is None) == (together[i].logprobs is None) == (row.params.logprobs is None)
        drawing = [i for i, row in enumerate(rows) if not row.params.greedy]
        if drawing:
            likelihood = likelihoods(logits[drawing], [rows[i].params for i in drawing])
            tokens = draw(likelihood, [rows[i].key for i in drawing]).tolist()
            for n, i in enumerate(drawing):
                one = likelihoods(logits[i:i + 1].clone(), [rows[i].params])
                assert torch.equal(one[0], likelihood[n]) and draw(one, [rows[i].key]).tolist() == [tokens[n]]


def test_same_seed_same_draws() -> None:
    logits = torch.zeros(1000)
    draws = [[sampler(logits) for _ in range(5)] for sampler in map(Sampler,
                                                                    [SamplingParams(seed=s)
                                                                     for s in (1, 1, 2)])]
    assert draws[0] == draws[1] != draws[2]
    assert len({Sampler(SamplingParams())(logits) for _ in range(20)}) > 1
    assert Sampler(SamplingParams(seed=1), answer=1)(logits) != draws[0][0]


def test_a_row_further_ahead_is_the_row_after_those_tokens() -> None:
    params = SamplingParams(seed=1, repetition_penalty=1.2)
    sampler, other = Sampler(params, [1, 2]), Sampler(params, [1, 2])
    ahead = sampler.choosing(ahead=[7, 8])
    for token in (7, 8):
        other.took(token)
    assert ahead == other.choosing()
    assert set(ahead.seen) == {1, 2, 7, 8}
    assert set(sampler.choosing().seen) == {1, 2}


def test_the_penalty_reaches_greedy_rows_and_only_those_who_asked() -> None:
    logits = torch.tensor([[2.0, 1.9, -1.0], [2.0, 1.9, -1.0], [-1.0, -1.1, -9.0]])
    penalised, plain = SamplingParams(temperature=0, repetition_penalty=1.2), SamplingParams(temperature=0)
    before = logits.clone()
    choices = choose(logits, [Choosing(penalised, seen=[0, 0]), Choosing(plain, seen=[0]),
                              Choosing(penalised, seen=[0])])
    assert [c.token_id for c in choices] == [1, 0, 1] and torch.equal(logits, before)


def test_logprobs_are_the_models_own() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 40)
    exact = logits.double().log_softmax(-1)
    params = [SamplingParams(seed=0, temperature=2.0, top_k=7, repetition_penalty=1.5, logprobs=k)
              for k in (3, 0, 99)]
    choices = choose(logits, [Choosing(p, key, [1, 2, 3]) for key, p in enumerate(params)])
    for row, (choice, wanted) in enumerate(zip(choices, (3, 0, 40))):
        order = exact[row].argsort(descending=True).tolist()
        assert next(iter(choice.logprobs)) == choice.token_id
        assert set(choice.logprobs) == {choice.token_id, *order[:wanted]}
        for token, told in choice.logprobs.items():
            assert told.rank == order.index(token) + 1 and abs(told.logprob - exact[row, token]) < 1e-5


@pytest.mark.parametrize("settings", [{"temperature": 0}, {},
                                      {"top_k": 3, "top_p": 0.9, "min_p": 0.1, "logprobs": 2},
                                      {"repetition_penalty": 2.0}])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_not_numbers(settings: dict, value: float) -> None:
    params = SamplingParams(seed=0, **settings)
    logits = torch.zeros(3, 70)
    logits[1, 60:] = value
    choices = choose(logits, [Choosing(params, 5, [1])] * 3)
    assert choices[1] == (None, None) and choices[0].token_id is not None and choices[2] == choices[0]
    with pytest.raises(ValueError, match="not finite"):
        Sampler(params)(logits[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only a GPU can be waited for")
def test_choosing_waits_for_nothing() -> None:
    rng, logits = random.Random(0), torch.randn(40, 1000, device="cuda", dtype=torch.bfloat16)
    samplers = [Sampler(random_params(rng), [rng.randrange(1000) for _ in range(20)]) for _ in logits]
    rows = [s.choosing(banned=[rng.randrange(1000)] if i % 3 == 0 else ()) for i, s in enumerate(samplers)]
    expected = choose(logits, rows)    # makes the table of waits, and has waited
    torch.cuda.set_sync_debug_mode("error")
    try:
        draws = start_choosing(logits, rows)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert draws.read() == expected


def test_the_farthest_values_still_draw_what_may_be_drawn() -> None:
    """Bans hold, every likelihood is a number, and the model is not blamed for what the request asked."""
    logits = torch.tensor([[-1e3, 3.0, 2.0, 1e3]])
    for penalty in (1e-6, 1.0, 1e6):
        for temperature in (0, 1e-300, 1.0, 1e6):
            params = [SamplingParams(temperature=temperature, repetition_penalty=penalty, seed=seed)
                      for seed in range(20)]
            for one in params:
                row = Choosing(one, draw_key(one.seed, 0, 0), seen=[0, 1, 3], banned=[3])
                assert choose(logits, [row])[0].token_id in {0, 1, 2}
    hot = probabilities(logits[0, :3], SamplingParams(temperature=1e6))
    assert hot.allclose(torch.full((3,), 1 / 3), atol=1e-3)

