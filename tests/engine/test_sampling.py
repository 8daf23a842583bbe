"""SamplingParams refuse what makes no sense; the sampler draws from the distribution that they describe."""

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from aiinfra import SamplingParams
from aiinfra.engine.llm import cut_at_stop
from aiinfra.engine.sampler import Sampler, probabilities

CPU = torch.device("cpu")


@pytest.mark.parametrize("key, value, limit", [
    ("temperature", -0.1, "at least 0"), ("temperature", float("nan"), "at least 0"), ("temperature", "hot", "at least 0"),
    ("top_p", 1.01, "above 0 and at most 1"), ("top_p", 0, "above 0"), ("top_k", -2, "at least -1"), ("top_k", 1.5, "an integer"),
    ("max_tokens", 0, "at least 1"), ("min_tokens", 17, "between 0 and max_tokens=16"), ("min_tokens", -1, "between 0"),
    ("stop", "", "non-empty"), ("stop", ["x", ""], "non-empty"), ("seed", 1.5, "None or an integer"), ("seed", 10**25, "at most 64 bits"), ("stop_token_ids", ["a"], "token ids"),
])
def test_a_value_outside_its_range(key: str, value, limit: str) -> None:
    with pytest.raises(ValueError, match=rf"{key}=.*{limit}"):
        SamplingParams(**{key: value})


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(TypeError, match="no key 'temprature'. Did you mean 'temperature'"):
        SamplingParams(temprature=1)


def test_parameters_are_frozen_and_comparable() -> None:
    params = SamplingParams(stop="x")
    assert params.stop == ("x",) and params == SamplingParams(stop=["x"])
    with pytest.raises(AttributeError):
        params.temperature = 2


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.3}, {"top_k": 5}, {"top_p": 0.6}, {"top_k": 20, "top_p": 0.8, "temperature": 1.7},
                                      {"top_k": 1}, {"top_p": 1e-6}, {"top_k": 1000}])
def test_the_distribution_is_transformers(settings: dict) -> None:
    torch.manual_seed(0)
    logits = torch.randn(100) * 3
    warped = TemperatureLogitsWarper(settings["temperature"])(None, logits[None]) if "temperature" in settings else logits[None]
    if "top_k" in settings:
        warped = TopKLogitsWarper(min(settings["top_k"], 100))(None, warped)
    if "top_p" in settings:
        warped = TopPLogitsWarper(settings["top_p"])(None, warped)
    torch.testing.assert_close(probabilities(logits, SamplingParams(**settings)), warped[0].softmax(-1))


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -torch.inf])
    sampler = Sampler(SamplingParams(seed=3), CPU)
    counts = torch.bincount(torch.tensor([sampler(logits) for _ in range(4000)]), minlength=4) / 4000
    assert (counts - logits.softmax(-1)).abs().max() < 0.03        # four standard deviations
    assert counts[3] == 0


def test_same_seed_same_draws() -> None:
    logits = torch.zeros(1000)
    draws = [[Sampler(SamplingParams(seed=seed), CPU)(logits) for _ in range(1)] for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert len({Sampler(SamplingParams(), CPU)(logits) for _ in range(20)}) > 1


@pytest.mark.parametrize("temperature", [0, 1])
def test_logits_that_are_not_numbers(temperature: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        Sampler(SamplingParams(temperature=temperature), CPU)(torch.full((5,), torch.nan))


@pytest.mark.parametrize("text, stops, final, expected", [
    ("one two three", ("two",), False, ("one ", True)), ("one two", ("zz",), False, ("one two", False)),
    ("one tw", ("two",), False, ("one ", False)), ("one tw", ("two",), True, ("one tw", False)),
    ("abc", ("c", "b"), False, ("a", True)), ("x\n", ("\n\n",), False, ("x", False)), ("", ("a",), True, ("", False)),
])
def test_cut_at_stop(text: str, stops: tuple, final: bool, expected: tuple) -> None:
    assert cut_at_stop(text, stops, final) == expected


def test_vllm_defaults_of_none() -> None:
    assert SamplingParams(stop=None, stop_token_ids=None) == SamplingParams()


def test_a_tiny_temperature_is_nearly_greedy() -> None:
    logits = torch.tensor([1.0, 3.0, 2.0])
    assert probabilities(logits, SamplingParams(temperature=1e-40)).tolist() == [0, 1, 0]
