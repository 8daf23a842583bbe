"""SamplingParams refuse what makes no sense, with the limit and the remedy of their rule."""

from dataclasses import fields

import pytest

from aiinfra import SamplingParams
from aiinfra.engine.sampling_params import RULES


@pytest.mark.parametrize("key, value, limit", [
    ("temperature", -0.1, "at least 0"), ("temperature", float("nan"), "at least 0"),
    ("temperature", "hot", "at least 0"),
    ("top_p", 1.01, "above 0 and at most 1"), ("top_p", 0, "above 0"), ("top_k", -2, "at least -1"),
    ("top_k", 1.5, "an integer"),
    ("max_tokens", 0, "at least 1"), ("min_tokens", 17, "between 0 and max_tokens=16"),
    ("min_tokens", -1, "between 0"),
    ("stop", "", "non-empty"), ("stop", ["x", ""], "non-empty"), ("seed", 1.5, "None or an integer"),
    ("seed", 10**25, "at most 64 bits"), ("stop_token_ids", ["a"], "token ids"),
    ("n", 0, "at least 1"), ("n", 1.5, "an integer"), ("n", True, "an integer"),
    ("min_p", 1.1, "between 0 and 1"), ("min_p", -0.1, "between 0 and 1"),
    ("repetition_penalty", 0, "between 1e-06 and 1,000,000"), ("repetition_penalty", float("inf"), "between"),
    ("repetition_penalty", 1e-300, "between"), ("repetition_penalty", 1.1e6, "between"),
    ("repetition_penalty", "no", "between"),
    ("temperature", 1e300, "at most 1,000,000"), ("temperature", float("inf"), "at most"),
    pytest.param("temperature", 10**400, "at most", id="a huge integer"), ("min_p", float("nan"), "between"),
    ("stop", 5, "a non-empty string or a list"), ("stop", 0, "a non-empty string"),
    ("stop", b"x", "a non-empty string"),
    ("stop_token_ids", 5, "a list of token ids"), ("stop_token_ids", 0, "a list of token ids"),
    ("stop_token_ids", "5", "a list of token ids"),
    ("ignore_eos", "no", "True or False"), ("ignore_eos", None, "True or False"),
    ("logprobs", -1, "None or an integer of at least 0"), ("logprobs", True, "None or an integer"),
])
def test_a_value_outside_its_range(key: str, value, limit: str) -> None:
    with pytest.raises(ValueError, match=rf"{key}=.*{limit}"):
        SamplingParams(**{key: value})


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(TypeError, match="no key 'temprature'. Did you mean 'temperature'"):
        SamplingParams(temprature=1)


def test_answers_that_would_all_be_the_same() -> None:
    with pytest.raises(ValueError, match="n=2; it must be 1 at temperature 0"):
        SamplingParams(n=2, temperature=0)


def test_parameters_are_frozen_and_comparable() -> None:
    params = SamplingParams(stop="x")
    assert params.stop == ("x",) and params == SamplingParams(stop=["x"])
    with pytest.raises(AttributeError):
        params.temperature = 2


def test_vllm_defaults_of_none() -> None:
    assert SamplingParams(stop=None, stop_token_ids=None) == SamplingParams()


def test_stops_in_any_collection() -> None:
    lists = SamplingParams(stop=["x", "y"], stop_token_ids=[0, 1])
    assert SamplingParams(stop=iter(["x", "y"]), stop_token_ids=range(2)) == lists


def test_every_field_has_a_rule_that_its_default_keeps() -> None:
    assert set(RULES) == {field.name for field in fields(SamplingParams)}
    for name, rule in RULES.items():
        assert rule.allows(getattr(SamplingParams(), name), SamplingParams()), name


def test_the_limits_themselves_are_allowed() -> None:
    for name, rule in RULES.items():
        for value in (rule.low, rule.high):
            if value is None or isinstance(value, str) or rule.several or rule.above_low:
                continue
            value = rule.kind(value)
            assert getattr(SamplingParams(**{name: value}), name) == value
    assert SamplingParams(min_tokens=16).min_tokens == 16


def test_stop_ids_are_those_that_the_model_can_say() -> None:
    params = SamplingParams(stop_token_ids=[3, 999])
    assert params.stop_ids(eos_ids=(7, 500), vocab_size=500) == {3, 7}
    assert SamplingParams(ignore_eos=True).stop_ids(eos_ids=(7,), vocab_size=500) == set()
