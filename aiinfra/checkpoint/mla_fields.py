"""Latent attention (MLA) in config.json, as DeepSeek-V2 and V3 write it, read and written.

    qk_nope_head_dim, qk_rope_head_dim, v_head_dim     a head; head_dim follows from it
    kv_lora_rank, q_lora_rank                          short rows; q_lora_rank null: queries from the input
    rope_interleave                                    V3 only; V2 always has pairs side by side
    rope_scaling.mscale_all_dim                        YaRN: scores are multiplied by its square, too

Source: transformers, models/deepseek_v*/configuration_*.py and modeling_*.py.
"""

from dataclasses import asdict
from typing import Any

from aiinfra.checkpoint.fields import count, number, truth
from aiinfra.checkpoint.rope import rope_kind, rope_words, yarn_amplitude
from aiinfra.errors import LoadError
from aiinfra.model.mla_config import MLAConfig

# What a family's config means where a key is left out.
_SIZES = {"kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
          "v_head_dim": 128}
MLA_DEFAULTS: dict[str, dict[str, Any]] = {
    "deepseek_v3": {**_SIZES, "max_position_embeddings": 4096},
    "deepseek_v2": {**_SIZES, "max_position_embeddings": 2048},
}


def mla_from_json(raw: dict[str, Any], source: str) -> MLAConfig | None:
    """From a parsed config.json whose model_type is known and whose defaults are filled in; None for a family
    without latent attention. Raises LoadError for what is not supported."""
    if raw["model_type"] not in MLA_DEFAULTS:
        return None
    queries = None
    if raw["q_lora_rank"] is not None:
        queries = count(raw, "q_lora_rank", source)
    interleaved = truth(raw, "rope_interleave", source, default=True)
    if raw["model_type"] == "deepseek_v2" and not interleaved:
        raise LoadError(f"{source}: rope_interleave=False is not known to deepseek_v2, which always has "
                        "pairs side by side.")
    return MLAConfig(
        kv_lora_rank=count(raw, "kv_lora_rank", source),
        q_lora_rank=queries,
        qk_nope_head_dim=count(raw, "qk_nope_head_dim", source),
        qk_rope_head_dim=count(raw, "qk_rope_head_dim", source),
        v_head_dim=count(raw, "v_head_dim", source),
        rope_interleave=interleaved)


def score_factor(raw: dict[str, Any], source: str) -> float:
    """What DeepSeek's YaRN multiplies scores by, beside the root of a head's size."""
    rope = rope_words(raw)
    weight = number(rope, "mscale_all_dim", source, 0.0)
    kind = rope_kind(raw)
    if not weight or kind == "default":
        return 1.0
    if kind != "yarn":
        raise LoadError(f"{source}: mscale_all_dim={weight} with rope_type {kind!r} is not supported; only "
                        "with yarn.")
    factor = number(rope, "factor", source)
    return yarn_amplitude(factor, weight) ** 2


def mla_to_json(mla: MLAConfig) -> dict[str, Any]:
    """The keys that `mla_from_json` and transformers read."""
    return asdict(mla)
