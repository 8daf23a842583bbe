"""config.json to our config and back. What this decoder cannot compute is refused here, by name.

    config.json ──config_from_json──> ModelConfig ──config_to_json──> config.json

One decoder serves a whole family: Llama (SmolLM2 is one), Mistral, Qwen2 (adds a bias to q, k, v), Qwen3
(normalises q and k) and Phi-3 (keeps q, k, v in one matrix, as we do); Mixtral and Qwen3-MoE have experts
(moe_fields.py), DeepSeek-V2 and V3 these and latent attention (mla_fields.py). What a key means when it is
left out differs from one to the next, and stands in their table. Notebook 03.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from aiinfra.checkpoint.fields import count, number, required, token_ids, truth
from aiinfra.checkpoint.mla_fields import MLA_DEFAULTS, mla_from_json, mla_to_json, score_factor
from aiinfra.checkpoint.moe_fields import MOE_DEFAULTS, moe_from_json, moe_to_json
from aiinfra.checkpoint.rope import rope_from_json
from aiinfra.errors import LoadError
from aiinfra.model.config import ModelConfig, RopeScaling


@dataclass(frozen=True)
class Family:
    """What a family adds to the plain Llama decoder, and its config's values for keys that are left out.
    Source: transformers, models/*/configuration_*.py."""

    model_type: str
    reads_biases: bool = False                       # attention_bias and mlp_bias; others do not know these
    adds: dict[str, bool] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)


_QWEN = {
    "num_key_value_heads": 32, "max_position_embeddings": 32768, "sliding_window": 4096,
    "max_window_layers": 28,
}
FAMILIES = {
    "LlamaForCausalLM": Family("llama", reads_biases=True),
    "MistralForCausalLM": Family("mistral", defaults={
        "num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096}),
    "Qwen2ForCausalLM": Family("qwen2", adds={"qkv_bias": True}, defaults=_QWEN),
    "Qwen3ForCausalLM": Family("qwen3", reads_biases=True, adds={"qk_norm": True},
                               defaults={**_QWEN, "head_dim": 128}),
    "Phi3ForCausalLM": Family("phi3", defaults={
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "original_max_position_embeddings": 4096}),
    "MixtralForCausalLM": Family("mixtral", defaults={
        "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
        "rope_theta": 1e6, **MOE_DEFAULTS["mixtral"]}),
    "Qwen3MoeForCausalLM": Family("qwen3_moe", reads_biases=True, adds={"qk_norm": True}, defaults={
        "num_key_value_heads": 4, "max_position_embeddings": 32768, "sliding_window": 4096,
        **MOE_DEFAULTS["qwen3_moe"]}),
    "DeepseekV2ForCausalLM": Family("deepseek_v2", reads_biases=True, defaults={
        **MLA_DEFAULTS["deepseek_v2"], **MOE_DEFAULTS["deepseek_v2"]}),
    "DeepseekV3ForCausalLM": Family("deepseek_v3", reads_biases=True, defaults={
        **MLA_DEFAULTS["deepseek_v3"], **MOE_DEFAULTS["deepseek_v3"]}),
}
_DEFAULTS = {"max_position_embeddings": 2048, "rms_norm_eps": 1e-6}
# Ours and Hugging Face's key are one word for these.
_SAME_KEYS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
              "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_theta",
              "tie_word_embeddings", "bos_token_id")


def config_from_json(raw: dict[str, Any], source: str = "config.json") -> ModelConfig:
    """From a parsed Hugging Face `config.json`. Raises LoadError for what is not supported."""
    architecture = _architecture(raw, source)
    family = FAMILIES[architecture]
    raw = {**_DEFAULTS, **family.defaults, **raw, "model_type": family.model_type}
    _refuse(raw, source)
    heads = count(raw, "num_attention_heads", source)
    width = count(raw, "hidden_size", source)
    mla = mla_from_json(raw, source)
    if mla is None:
        head_dim = raw.get("head_dim") or width // heads
    else:
        head_dim = mla.qk_rope_head_dim
    context = count(raw, "max_position_embeddings", source)
    theta, scaling, context = rope_from_json(raw, source, head_dim, context)
    if mla is not None and scaling is not None:
        scaling = replace(scaling, score_factor=score_factor(raw, source))
    window = _window(raw, source)
    return ModelConfig(
        vocab_size=required(raw, "vocab_size", source),
        hidden_size=width,
        num_hidden_layers=required(raw, "num_hidden_layers", source),
        num_attention_heads=heads,
        num_key_value_heads=raw.get("num_key_value_heads") or heads,
        head_dim=head_dim,
        intermediate_size=required(raw, "intermediate_size", source),
        max_position_embeddings=context if window is None else min(context, window),
        rms_norm_eps=number(raw, "rms_norm_eps", source),
        rope_theta=theta,
        rope_scaling=scaling,
        tie_word_embeddings=truth(raw, "tie_word_embeddings", source),
        eos_token_ids=token_ids(raw, "eos_token_id", source),
        bos_token_id=raw.get("bos_token_id"),
        moe=moe_from_json(raw, source),
        mla=mla,
        **family.adds | _biases(raw, source, family))


def _biases(raw: dict[str, Any], source: str, family: Family) -> dict[str, bool]:
    """What the config adds to its family."""
    added = {}
    if family.reads_biases and truth(raw, "attention_bias", source):
        added["out_bias"] = True
        added["qkv_bias"] = family.model_type not in MLA_DEFAULTS        # the short rows have out's
    if family.reads_biases and truth(raw, "mlp_bias", source):
        added["mlp_bias"] = True
    return added


def _window(raw: dict[str, Any], source: str) -> int | None:
    """Tokens within which a sliding window hides nothing. Attention here sees all, so the context ends
    there."""
    if raw.get("sliding_window") is None:
        return None
    if raw["model_type"].startswith("qwen"):         # in the upper layers only, and only if this is said
        used = raw.get("max_window_layers", 0) < count(raw, "num_hidden_layers", source)
        if raw["model_type"] == "qwen3_moe":         # in all of them
            used = True
        elif raw.get("layer_types"):
            used = "sliding_attention" in raw["layer_types"]
        if not used or not truth(raw, "use_sliding_window", source):
            return None
    return count(raw, "sliding_window", source)


def config_to_json(config: ModelConfig, dtype: torch.dtype) -> dict[str, Any]:
    """A `config.json` that `config_from_json` and transformers 4 and 5 read as this config.

    Raises ValueError for a config that Hugging Face's form has no words for.
    """
    architecture = architecture_of(config)
    raw = {
        "architectures": [architecture],
        "model_type": FAMILIES[architecture].model_type,
        "hidden_act": "silu",
        "attention_bias": config.out_bias,
        "mlp_bias": config.mlp_bias,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    raw |= {key: getattr(config, key) for key in _SAME_KEYS}
    raw |= ends_to_json(config)
    if config.mla is not None:
        raw |= mla_to_json(config.mla)
        raw["first_k_dense_replace"] = config.num_hidden_layers          # unless there are experts
    if config.moe is not None:
        raw |= moe_to_json(config.moe, raw["model_type"])
    if config.rope_scaling is not None:              # the form of transformers 4, which 5 reads too
        raw["rope_scaling"] = _rope_to_json(config.rope_scaling)
    return raw


def ends_to_json(config: ModelConfig) -> dict[str, Any]:
    """The ids that begin and end a text, as config.json and generation_config.json write them."""
    eos: Any = list(config.eos_token_ids) or None
    if len(config.eos_token_ids) == 1:
        eos = config.eos_token_ids[0]                # one by itself, several as a list
    return {"bos_token_id": config.bos_token_id, "eos_token_id": eos}


def _architecture(raw: dict[str, Any], source: str) -> str:
    names = raw.get("architectures")
    if not names:                                    # transformers goes by the model's type then
        model_type = raw.get("model_type")
        names = [name for name, family in FAMILIES.items() if family.model_type == model_type]
        names = names or [f"model_type {model_type!r}"]
    if isinstance(names, str):
        names = [names]
    if names[0] not in FAMILIES:
        raise LoadError(f"{source}: architecture {names[0]} is not supported. "
                        f"Supported: {', '.join(FAMILIES)}.")
    return names[0]


def architecture_of(config: ModelConfig) -> str:
    """Whose layers these are: Llama, Qwen2 and Qwen3, Mixtral and Qwen3-MoE, DeepSeek-V2 and V3 cover all
    that can be loaded. Raises ValueError if they are nobody's."""
    if config.mla is not None:
        return _deepseek_of(config)
    if config.moe is not None:
        return _sparse_of(config)
    if config.qk_norm:
        if config.qkv_bias != config.out_bias or config.mlp_bias:
            raise ValueError("no family of Hugging Face has both qkv_bias and qk_norm; the model cannot be "
                             "saved in their form.")
        return "Qwen3ForCausalLM"
    if config.qkv_bias and not config.out_bias:
        return "Qwen2ForCausalLM"
    return "LlamaForCausalLM"


def _sparse_of(config: ModelConfig) -> str:
    if config.qk_norm and config.qkv_bias == config.out_bias:
        return "Qwen3MoeForCausalLM"
    if config.qkv_bias or config.out_bias or config.qk_norm:
        raise ValueError("no family of Hugging Face has experts with these biases and norms of attention; "
                         "the model cannot be saved in their form.")
    return "MixtralForCausalLM"


def _deepseek_of(config: ModelConfig) -> str:
    """V3, where V2 does not have to be: for a bias in the feed-forward, or experts under a softmax."""
    softmax = config.moe is not None and config.moe.scoring_func == "softmax"
    if not (config.mlp_bias or softmax):
        return "DeepseekV3ForCausalLM"
    if not config.mla.rope_interleave:
        raise ValueError("no family of Hugging Face has rope_interleave=False with a bias in the "
                         "feed-forward or experts under a softmax; the model cannot be saved in their form.")
    return "DeepseekV2ForCausalLM"


def _refuse(raw: dict[str, Any], source: str) -> None:
    """Settings that change the arithmetic and that this decoder does not compute."""
    layers = set(raw.get("layer_types") or ())
    wrong = {
        "hidden_act": raw.get("hidden_act", "silu") != "silu",
        "quantization_config": raw.get("quantization_config") is not None,
        "quantization": raw.get("quantization") is not None,
        "layer_types": bool(layers - {"full_attention", "sliding_attention"}),
    }
    for key, bad in wrong.items():
        if bad:
            kind = " (the form of MLX)" if key == "quantization" else ""
            raise LoadError(f"{source}: {key}={raw[key]!r}{kind} is not supported; this decoder computes the "
                            "plain Llama, Qwen, Mixtral and DeepSeek layers in float32, bfloat16 or float16.")


def _rope_to_json(scaling: RopeScaling) -> dict[str, Any]:
    if scaling.words:
        return dict(scaling.words)
    if scaling.kind == "linear":
        return {"rope_type": "linear", "factor": scaling.factor}
    if scaling.kind != "llama3":
        raise ValueError(f"rope scaling by {scaling.kind!r}, as GGUF files store it, has no words in Hugging "
                         "Face's config.json. Save a model that was loaded from a Hugging Face folder.")
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_max_position_embeddings,
    }
