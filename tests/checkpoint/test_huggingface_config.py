"""config.json: both of its forms are read, and what we cannot compute is refused by name."""

import json
import math

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


FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0, "mscale_all_dim": 1.0}


@pytest.mark.parametrize("case, changes, message", [
    ("deepseek v3", {"quantization_config": FP8}, "quantization_config=.*fp8.* is not supported"),
    ("deepseek v3", {"topk_method": "greedy"}, "topk_method='greedy' is not supported; here it is"),
    ("deepseek v3", {"kv_lora_rank": 0}, "kv_lora_rank=0; it must be an integer of at least 1"),
    ("deepseek v3", {"q_lora_rank": "24"}, "q_lora_rank='24'; it must be an integer of at least 1"),
    ("deepseek v3", {"num_key_value_heads": 3}, "num_key_value_heads=3; with latent attention each of"),
    ("deepseek v3", {"qk_rope_head_dim": 7}, "head_dim=7 is odd"),
    ("deepseek v3", {"rope_parameters": LINEAR}, "mscale_all_dim=1.0 with rope_type 'linear' is not"),
    ("deepseek v2", {"topk_method": "group_limited_greedy"}, "topk_method='group_limited_greedy' is not"),
    ("deepseek v2", {"norm_topk_prob": True}, "norm_topk_prob=True is not supported"),
    ("deepseek v2", {"rope_interleave": False}, "rope_interleave=False is not known to deepseek_v2"),
])
def test_deepseek_config_that_is_not_supported(case: str, changes: dict, message: str, tmp_path) -> None:
    reference_model(case).save_pretrained(tmp_path)
    edit_config(tmp_path, **changes)
    with pytest.raises(LoadError, match=message):
        our_model(tmp_path)


def test_deepseek_v3_as_its_own_file_says_it() -> None:
    """Without what follows from other keys, and with the keys of transformers 4."""
    raw = {
        "architectures": ["DeepseekV3ForCausalLM"], "vocab_size": 129280, "hidden_size": 7168,
        "intermediate_size": 18432, "moe_intermediate_size": 2048, "num_hidden_layers": 61,
        "num_attention_heads": 128, "num_key_value_heads": 128, "n_shared_experts": 1,
        "n_routed_experts": 256, "routed_scaling_factor": 2.5, "kv_lora_rank": 512, "q_lora_rank": 1536,
        "qk_rope_head_dim": 64, "v_head_dim": 128, "qk_nope_head_dim": 128, "topk_method": "noaux_tc",
        "n_group": 8, "topk_group": 4, "num_experts_per_tok": 8, "moe_layer_freq": 1,
        "first_k_dense_replace": 3, "norm_topk_prob": True, "scoring_func": "sigmoid",
        "max_position_embeddings": 163840, "rope_theta": 10000, "tie_word_embeddings": False,
        "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
                         "original_max_position_embeddings": 4096, "type": "yarn"}}
    config = config_from_json(raw)
    assert config.kv_values_per_token == 61 * (512 + 64) and config.head_dim == 64
    assert config.moe.num_experts == 256 and config.moe.n_group == 8
    assert config.rope_scaling.amplitude == 1.0
    assert config.rope_scaling.score_factor == pytest.approx((0.1 * math.log(40) + 1) ** 2)


@pytest.mark.parametrize("content, message", [
    (b"{not json", "is not valid JSON"), (b"\xff\xfe\x00", "is not valid JSON in UTF-8"),
    (b"[1]", "holds a list"),
])
def test_config_that_is_no_json(content: bytes, message: str, folder) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(LoadError, match=message):
        our_model(folder)
