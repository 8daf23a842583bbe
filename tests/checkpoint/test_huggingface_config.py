"""config.json: both of its forms are read, and what we cannot compute is refused by name."""

import json

import pytest

from aiinfra.checkpoint.huggingface_config import config_from_json
from aiinfra.errors import LoadError
from tests.checkpoint.small_models import CASES, our_model, reference_model


@pytest.fixture
def folder(tmp_path):
    reference_model("llama tied").save_pretrained(tmp_path)
    return tmp_path


def test_config_in_the_older_form(tmp_path) -> None:
    """Checkpoints written before transformers 5 keep rope_theta and rope_scaling as two keys."""
    kind, settings = CASES["llama3 rope"]
    kind(**settings, architectures=["LlamaForCausalLM"]).save_pretrained(tmp_path)
    new = json.loads((tmp_path / "config.json").read_text())
    rope = new.pop("rope_parameters")
    old = {**new, "rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    assert config_from_json(old) == config_from_json({**new,
                                                      "rope_parameters": {**rope, "rope_theta": 500000.0}})


def edit_config(folder, **changes) -> None:
    path = folder / "config.json"
    raw = json.loads(path.read_text())
    raw.update(changes)
    path.write_text(json.dumps({k: v for k, v in raw.items() if v != "REMOVE"}))


@pytest.mark.parametrize("changes, message", [
    ({"architectures": ["MambaForCausalLM"]},
     "MambaForCausalLM is not supported. Supported: LlamaForCausalLM, MistralForCausalLM"),
    ({"hidden_size": "REMOVE"}, "no 'hidden_size'"),
    ({"rope_parameters": {"rope_type": "axial", "rope_theta": 1e4}},
     "rope_type 'axial' is not supported. Supported: default, linear, dynamic, llama3, yarn, longrope"),
    ({"hidden_act": "gelu"}, "hidden_act='gelu' is not supported"),
    ({"attention_bias": True}, "the weights have no tensor model.layers.0.self_attn.q_proj.bias"),
    ({"num_key_value_heads": 4}, "num_attention_heads=6 is not a multiple of num_key_value_heads=4"),
    ({"num_hidden_layers": 0}, "num_hidden_layers=0; it must be an integer of at least 1"),
    ({"head_dim": 7}, "head_dim=7 is odd"),
    ({"num_attention_heads": 0}, "num_attention_heads=0; it must be an integer of at least 1"),
    ({"hidden_size": "48"}, "hidden_size=.48.; it must be an integer of at least 1"),
    ({"rope_scaling": "linear"}, "config.json is damaged"),
    ({"rope_scaling": {"rope_type": "linear"}}, "config.json has no 'factor'"),
    ({"rope_scaling": {"rope_type": "linear", "factor": 0}}, "rope scaling factor 0.0; it must be above 0"),
    ({"architectures": "MambaForCausalLM"}, "architecture MambaForCausalLM is not supported"),
])
def test_config_that_is_not_supported(changes: dict, message: str, folder) -> None:
    edit_config(folder, **changes)
    with pytest.raises(LoadError, match=message):
        our_model(folder)


@pytest.mark.parametrize("content, message", [
    (b"{not json", "is not valid JSON"), (b"\xff\xfe\x00", "is not valid JSON in UTF-8"),
    (b"[1]", "holds a list"),
])
def test_config_that_is_no_json(content: bytes, message: str, folder) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(LoadError, match=message):
        our_model(folder)
