"""Quirks of config.json: keys left out, older spellings, and what changes the arithmetic."""

import json
from pathlib import Path
from typing import Any

from tests.checkpoint.corpus_parts import QWEN2_CUT, byte_level, edit, save, small_model
from tests.checkpoint.corpus_says import Says, quirk, refused, transformers_says

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def folder_of(folder: Path, kind: str = "llama", **settings: Any) -> Path:
    """A small model of a family, with a usual tokenizer."""
    backend = byte_level("<|endoftext|>", cut=QWEN2_CUT if kind.startswith("qwen") else None)
    return save(
        folder, small_model(kind, backend.get_vocab_size(), **settings), backend, eos_token="<|endoftext|>"
    )


def config(folder: Path, change: Any = None, **values: Any) -> Path:
    """Change config.json; None removes a key."""
    edit(folder / "config.json", change, **values)
    return folder


def with_nulls(folder: Path, *keys: str) -> Path:
    """Write null for these keys."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **dict.fromkeys(keys)}))
    return folder


@quirk
def no_architectures(folder: Path) -> Says:
    return transformers_says(config(folder_of(folder, "qwen2"), architectures=None))


@quirk
def no_architectures_mistral(folder: Path) -> Says:
    return transformers_says(config(folder_of(folder, "mistral", sliding_window=None), architectures=None))


@quirk
def llama_3_rope_without_its_original_length(folder: Path) -> Says:
    folder_of(folder, rope_parameters=LLAMA3_ROPE)
    return transformers_says(
        config(folder, lambda raw: raw["rope_parameters"].pop("original_max_position_embeddings")),
        lengths=(1, 150),
    )


@quirk
def qwen_3_without_head_dim(folder: Path) -> Says:
    return transformers_says(config(folder_of(folder, "qwen3", head_dim=128), head_dim=None))


@quirk
def llama_with_a_null_head_dim(folder: Path) -> Says:
    return transformers_says(with_nulls(folder_of(folder), "head_dim", "pad_token_id", "rope_scaling"))


@quirk
def key_value_heads_left_out(folder: Path) -> Says:
    return transformers_says(config(folder_of(folder, num_key_value_heads=4), num_key_value_heads=None))


@quirk
def a_mistral_with_fewer_heads_than_it_says(folder: Path) -> Says:
    """Mistral's default is 8 KV heads, whatever the number of query heads."""
    return transformers_says(
        config(
            folder_of(
                folder,
                "mistral",
                num_attention_heads=8,
                num_key_value_heads=8,
                head_dim=8,
                sliding_window=None,
            ),
            num_key_value_heads=None,
        )
    )


@refused("hidden_size='48'")
def a_number_as_a_string(folder: Path) -> Path:
    return config(folder_of(folder), hidden_size="48")


@refused("rms_norm_eps='1e-06'")
def a_small_number_as_a_string(folder: Path) -> Path:
    return config(folder_of(folder), rms_norm_eps="1e-06")


@refused("eos_token_id='3'")
def an_id_as_a_string(folder: Path) -> Path:
    return config(folder_of(folder), eos_token_id="3")


@refused("factor='2.0'")
def a_scaling_factor_as_a_string(folder: Path) -> Path:
    return config(
        folder_of(folder), rope_parameters={"rope_type": "linear", "factor": "2.0", "rope_theta": 1e4}
    )


@refused("attention_bias='false'")
def a_truth_as_a_string(folder: Path) -> Path:
    return config(folder_of(folder), attention_bias="false")


@quirk
def a_whole_number_for_a_float(folder: Path) -> Says:
    return transformers_says(config(folder_of(folder), rope_parameters=None, rope_theta=20000))


@quirk
def the_older_spelling_of_rope(folder: Path) -> Says:
    folder_of(folder)
    config(folder, rope_parameters=None, rope_theta=5000.0, rope_scaling={"type": "linear", "factor": 2.0})
    return transformers_says(folder, lengths=(1, 150))


@quirk
def nothing_about_rope(folder: Path) -> Says:
    return transformers_says(config(folder_of(folder), rope_parameters=None))


@quirk
def nothing_about_the_norm(folder: Path) -> Says:
    return transformers_says(config(folder_of(folder, rms_norm_eps=1e-6), rms_norm_eps=None))


def yarn(folder: Path, kind: str = "qwen2", **more: Any) -> Says:
    """YaRN over four times the original length."""
    rope = {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        **more,
    }
    return transformers_says(folder_of(folder, kind, rope_parameters=rope), lengths=(1, 40, 200))


@quirk
def yarn_scaling(folder: Path) -> Says:
    return yarn(folder)


@quirk
def yarn_scaling_with_a_factor_for_attention(folder: Path) -> Says:
    return yarn(folder, "llama", attention_factor=1.3, beta_fast=16.0, beta_slow=2.0)


@quirk
def yarn_scaling_with_mscale(folder: Path) -> Says:
    return yarn(folder, "qwen3", mscale=1.2, mscale_all_dim=0.7, truncate=False)


@quirk
def yarn_scaling_in_the_older_spelling(folder: Path) -> Says:
    folder_of(folder, "qwen2", max_position_embeddings=64)
    config(
        folder,
        rope_parameters=None,
        rope_theta=10000.0,
        rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    )
    return transformers_says(folder, lengths=(1, 60))


@quirk
def dynamic_scaling_within_the_context(folder: Path) -> Says:
    folder_of(folder)
    config(folder, rope_parameters=None, rope_theta=10000.0, rope_scaling={"type": "dynamic", "factor": 4.0})
    return transformers_says(folder, lengths=(1, 256))


@quirk
def longrope_scaling_within_the_original_context(folder: Path) -> Says:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
        "long_factor": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        "original_max_position_embeddings": 64,
        "factor": 4.0,
    }
    return transformers_says(folder_of(folder, rope_parameters=rope), lengths=(1, 64), more={"context": 64})


@quirk
def a_window_narrower_than_the_context(folder: Path) -> Says:
    return transformers_says(
        folder_of(folder, "mistral", sliding_window=32), lengths=(1, 32), more={"context": 32}
    )


@quirk
def a_window_as_wide_as_the_context(folder: Path) -> Says:
    return transformers_says(folder_of(folder, "mistral", sliding_window=256), lengths=(1, 256))


@quirk
def a_window_that_is_not_used(folder: Path) -> Says:
    return transformers_says(
        folder_of(folder, "qwen2", use_sliding_window=False, sliding_window=8, max_window_layers=1),
        lengths=(1, 100),
    )


@quirk
def a_window_for_the_upper_layers(folder: Path) -> Says:
    folder_of(folder, "qwen2", use_sliding_window=True, sliding_window=32, max_window_layers=1)
    return transformers_says(folder, lengths=(1, 32), more={"context": 32})


@quirk
def layer_types_that_slide(folder: Path) -> Says:
    folder_of(
        folder,
        "qwen3",
        use_sliding_window=True,
        sliding_window=16,
        layer_types=["full_attention", "sliding_attention"],
    )
    return transformers_says(folder, lengths=(1, 16), more={"context": 16})


@quirk
def biases_of_attention(folder: Path) -> Says:
    return transformers_says(folder_of(folder, attention_bias=True))


@quirk
def biases_of_attention_beside_norms(folder: Path) -> Says:
    return transformers_says(folder_of(folder, "qwen3", attention_bias=True))


@quirk
def biases_of_the_feed_forward_layer(folder: Path) -> Says:
    return transformers_says(folder_of(folder, mlp_bias=True))


@quirk
def phi_3(folder: Path) -> Says:
    return transformers_says(folder_of(folder, "phi3", sliding_window=None))


@quirk
def phi_3_with_a_window(folder: Path) -> Says:
    return transformers_says(
        folder_of(folder, "phi3", sliding_window=32), lengths=(1, 32), more={"context": 32}
    )


@refused("partial_rotary_factor")
def a_part_of_each_head_turned(folder: Path) -> Path:
    return folder_of(folder, "phi3", partial_rotary_factor=0.5, sliding_window=None)


@refused("partial_rotary_factor")
def a_part_of_each_head_turned_by_rope_parameters(folder: Path) -> Path:
    return folder_of(
        folder,
        "llama",
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
    )


@refused("rope_type 'proportional'")
def rope_of_an_unknown_kind(folder: Path) -> Path:
    return config(
        folder_of(folder), rope_parameters={"rope_type": "proportional", "rope_theta": 1e4, "factor": 2.0}
    )


@refused("Gemma3")
def gemma_3(folder: Path) -> Path:
    return folder_of(folder, "gemma3", layer_types=["full_attention"] * 2)


@refused("hidden_act")
def another_activation(folder: Path) -> Path:
    return folder_of(folder, hidden_act="gelu")


@refused("quantization_config.*fp8")
def fp8(folder: Path) -> Path:
    return config(
        folder_of(folder), quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]}
    )


@refused("quantization_config.*gptq")
def gptq(folder: Path) -> Path:
    return config(
        folder_of(folder), quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 128}
    )


@refused("quantization_config.*bitsandbytes")
def bitsandbytes(folder: Path) -> Path:
    return config(
        folder_of(folder), quantization_config={"load_in_4bit": True, "quant_method": "bitsandbytes"}
    )


@refused("quantization.*MLX")
def mlx(folder: Path) -> Path:
    return config(folder_of(folder), quantization={"group_size": 64, "bits": 4})


@refused("no tensor model.layers.0.mlp.gate.weight")
def experts_by_their_name(folder: Path) -> Path:
    return config(folder_of(folder), architectures=["MixtralForCausalLM"], model_type="mixtral")


def mixtral(folder: Path, **changes) -> Path:
    return config(
        folder_of(folder), architectures=["MixtralForCausalLM"], model_type="mixtral", **changes)


@refused("router_jitter_noise=0.1")
def experts_whose_router_is_shaken(folder: Path) -> Path:
    return mixtral(folder, router_jitter_noise=0.1)


@refused("num_experts_per_tok=9")
def more_experts_a_token_than_there_are(folder: Path) -> Path:
    return mixtral(folder, num_experts_per_tok=9, num_local_experts=8)


@refused("num_local_experts|experts")
def a_fraction_of_an_expert(folder: Path) -> Path:
    return mixtral(folder, num_local_experts=2.5)


@refused("mlp_only_layers='all'")
def layers_by_a_word(folder: Path) -> Path:
    return config(folder_of(folder), architectures=["Qwen3MoeForCausalLM"], model_type="qwen3_moe",
                  mlp_only_layers="all")


@refused("LlamaForSequenceClassification")
def a_classifier(folder: Path) -> Path:
    return config(folder_of(folder), architectures=["LlamaForSequenceClassification"])


@refused("model_type 'mamba'")
def no_architectures_of_another_family(folder: Path) -> Path:
    return config(folder_of(folder), architectures=None, model_type="mamba")


@refused("adapter_config.json")
def an_adapter_without_its_model(folder: Path) -> Path:
    folder_of(folder)
    (folder / "config.json").rename(folder / "adapter_config.json")
    return folder


@quirk
def phi_3_longrope_within_the_original_context(folder: Path) -> Says:
    factors = {"short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5], "long_factor": [2.0] * 6}
    folder_of(
        folder,
        "phi3",
        sliding_window=None,
        original_max_position_embeddings=64,
        rope_parameters={"rope_type": "longrope", "rope_theta": 10000.0, **factors},
    )
    return transformers_says(folder, lengths=(1, 64), more={"context": 64})
