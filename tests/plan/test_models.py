"""Published figures of models: their shapes add up to the parameters that their makers state."""

import json
from pathlib import Path

import pytest

from aiinfra.errors import LoadError
from aiinfra.perf.memory import parameter_count
from aiinfra.perf.training import matrix_weights
from aiinfra.plan.models import MODELS, read_model

ASKED = {"deepseek-r1", "deepseek-v3", "qwen3-235b-a22b", "qwen3-32b", "qwen3-30b-a3b", "llama-3.1-8b",
         "llama-3.1-70b", "gpt-oss-120b"}


def test_the_models_that_were_asked_for_are_there() -> None:
    assert ASKED <= set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_the_published_ones(name: str) -> None:
    """To all digits that are published, or half a percent of the last one."""
    model = MODELS[name]
    assert parameter_count(model.config) / 1e9 == pytest.approx(model.billions, rel=1.2e-3)
    table = model.config.vocab_size * model.config.hidden_size
    active = matrix_weights(model.config) + (0 if name == "gpt-oss-120b" else table)    # OpenAI leaves it out
    assert active / 1e9 == pytest.approx(model.active_billions, rel=0.02)


def test_a_folder_with_a_config_alone(tmp_path: Path) -> None:
    raw = {"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 2,
           "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 100}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert read_model(tmp_path).config.hidden_size == 64
    raw["quantization_config"] = {"quant_method": "fp8"}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert read_model(tmp_path).config.hidden_size == 64, "a plan is told the precision of weights"
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(LoadError, match="architecture"):
        read_model(tmp_path)


def test_an_unknown_name_says_the_nearest() -> None:
    with pytest.raises(LoadError, match="'deepseek-v3'"):
        read_model("deepsek-v3")
