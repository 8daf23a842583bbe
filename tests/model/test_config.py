"""The numbers of a model must belong together; an unknown one names the nearest."""

import pytest

from aiinfra.errors import LoadError
from aiinfra.model import ModelConfig, RopeScaling

SMALL = dict(vocab_size=61, hidden_size=48, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2,
             head_dim=16,
             intermediate_size=40)


@pytest.mark.parametrize("changes, message", [
    ({"num_key_value_heads": 4}, "num_attention_heads=6 is not a multiple of num_key_value_heads=4"),
    ({"head_dim": 7}, "head_dim=7 is odd"),
    ({"vocab_size": 0}, "vocab_size=0; it must be an integer of at least 1"),
    ({"hidden_size": "48"}, "hidden_size='48'; it must be an integer of at least 1"),
])
def test_numbers_that_do_not_belong_together(changes: dict, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        ModelConfig(**{**SMALL, **changes})


@pytest.mark.parametrize("scaling, smallest", [
    ({"factor": 0.0}, "0.0"), ({"factor": float("nan")}, "nan"), ({"factors": (1.0, -2.0, -1.0)}, "-2.0"),
])
def test_a_frequency_cannot_be_divided_by_nothing(scaling: dict, smallest: str) -> None:
    with pytest.raises(LoadError, match=f"rope scaling factor {smallest}; it must be above 0"):
        RopeScaling("linear", **scaling)


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(TypeError, match="ModelConfig has no key 'hiden_size'. Did you mean 'hidden_size'"):
        ModelConfig(**SMALL, hiden_size=3)


def test_a_token_of_the_cache() -> None:
    assert ModelConfig(**SMALL).kv_bytes_per_token == 2 * 2 * 2 * 16 * 4
