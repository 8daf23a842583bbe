"""config.json to our config and back. What this decoder cannot compute is refused here, by name.

    config.json ──config_from_json──> ModelConfig ──config_to_json──> config.json

One decoder serves a whole family: Llama (SmolLM2 is one), Qwen2 (adds a bias to q, k, v) and Qwen3
(normalises q and k). Notebook 03.
"""

from typing import Any

import torch

from aiinfra.errors import LoadError, nearest
from aiinfra.model.config import ModelConfig, RopeScaling

# family -> what it adds to the plain Llama decoder
FAMILIES: dict[str, dict[str, bool]] = {
    "LlamaForCausalLM": {},
    "Qwen2ForCausalLM": {"qkv_bias": True},
    "Qwen3ForCausalLM": {"qk_norm": True},
}
# Ours and Hugging Face's key are one word for these.
_SAME_KEYS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
              "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_theta",
              "tie_word_embeddings", "bos_token_id")


def config_from_json(raw: dict[str, Any], source: str = "config.json") -> ModelConfig:
    """From a parsed Hugging Face `config.json`. Raises LoadError for what is not supported."""
    family = _family(raw, source)
    _refuse(raw, source)
    heads = required(raw, "num_attention_heads", source)
    width = required(raw, "hidden_size", source)
    rope = raw.get("rope_parameters") or {}          # transformers 5; earlier: two separate keys
    return ModelConfig(
        vocab_size=required(raw, "vocab_size", source),
        hidden_size=width,
        num_hidden_layers=required(raw, "num_hidden_layers", source),
        num_attention_heads=heads,
        num_key_value_heads=raw.get("num_key_value_heads") or heads,
        head_dim=raw.get("head_dim") or width // max(heads, 1),
        intermediate_size=required(raw, "intermediate_size", source),
        max_position_embeddings=raw.get("max_position_embeddings", 2048),
        rms_norm_eps=raw.get("rms_norm_eps", 1e-6),
        rope_theta=rope.get("rope_theta") or raw.get("rope_theta") or 10_000.0,
        rope_scaling=_rope_scaling(raw.get("rope_scaling") or rope, source),
        tie_word_embeddings=raw.get("tie_word_embeddings", False),
        eos_token_ids=_as_tuple(raw.get("eos_token_id")),
        bos_token_id=raw.get("bos_token_id"),
        **FAMILIES[family])


def config_to_json(config: ModelConfig, dtype: torch.dtype) -> dict[str, Any]:
    """A `config.json` that `config_from_json` and transformers 4 and 5 read as this config.

    Raises ValueError for a config that Hugging Face's form has no words for.
    """
    family = _family_of(config)
    raw = {
        "architectures": [family],
        "model_type": family.removesuffix("ForCausalLM").lower(),
        "hidden_act": "silu",
        "attention_bias": False,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    raw |= {key: getattr(config, key) for key in _SAME_KEYS}
    raw |= token_ids(config)
    if config.rope_scaling is not None:              # the form of transformers 4, which 5 reads too
        raw["rope_scaling"] = _rope_to_json(config.rope_scaling)
    return raw


def token_ids(config: ModelConfig) -> dict[str, Any]:
    """The ids that begin and end a text, as config.json and generation_config.json write them."""
    eos: Any = list(config.eos_token_ids) or None
    if len(config.eos_token_ids) == 1:
        eos = config.eos_token_ids[0]                # one by itself, several as a list
    return {"bos_token_id": config.bos_token_id, "eos_token_id": eos}


def required(raw: dict[str, Any], key: str, source: str) -> Any:
    """The value of a key. Raises LoadError, naming the nearest one, if it is absent."""
    if raw.get(key) is None:
        raise LoadError(f"{source} has no {key!r}, which the model's shape needs.{nearest(key, raw)}")
    return raw[key]


def _family(raw: dict[str, Any], source: str) -> str:
    names = raw.get("architectures") or [f"model_type {raw.get('model_type')!r}"]
    if isinstance(names, str):
        names = [names]
    if names[0] not in FAMILIES:
        raise LoadError(f"{source}: architecture {names[0]} is not supported. "
                        f"Supported: {', '.join(FAMILIES)}.")
    return names[0]


def _family_of(config: ModelConfig) -> str:
    for family, added in FAMILIES.items():
        if config.qkv_bias == ("qkv_bias" in added) and config.qk_norm == ("qk_norm" in added):
            return family
    raise ValueError("no family of Hugging Face has both qkv_bias and qk_norm; the model cannot be saved in "
                     "their form.")


def _refuse(raw: dict[str, Any], source: str) -> None:
    """Settings that change the arithmetic and that this decoder does not compute."""
    wrong = {
        "hidden_act": raw.get("hidden_act", "silu") != "silu",
        "attention_bias": bool(raw.get("attention_bias")),
        "mlp_bias": bool(raw.get("mlp_bias")),
        "use_sliding_window": bool(raw.get("use_sliding_window")),
        "quantization_config": raw.get("quantization_config") is not None,
        "partial_rotary_factor": raw.get("partial_rotary_factor", 1.0) != 1.0,
    }
    for key, bad in wrong.items():
        if bad:
            raise LoadError(f"{source}: {key}={raw[key]!r} is not supported; this decoder computes the plain "
                            "Llama, Qwen2 and Qwen3 layers in float32, bfloat16 or float16.")


def _rope_scaling(raw: dict[str, Any], source: str) -> RopeScaling | None:
    kind = raw.get("rope_type") or raw.get("type") or "default"
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling("linear", factor=float(raw["factor"]))
    if kind == "llama3":
        return RopeScaling(
            kind="llama3",
            factor=float(raw["factor"]),
            low_freq_factor=float(raw["low_freq_factor"]),
            high_freq_factor=float(raw["high_freq_factor"]),
            original_max_position_embeddings=int(raw["original_max_position_embeddings"]))
    raise LoadError(f"{source}: rope_type {kind!r} is not supported. Supported: default, linear, llama3.")


def _rope_to_json(scaling: RopeScaling) -> dict[str, Any]:
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


def _as_tuple(ids: int | list[int] | None) -> tuple[int, ...]:
    if ids is None:
        return ()
    return tuple(ids) if isinstance(ids, list) else (ids,)
