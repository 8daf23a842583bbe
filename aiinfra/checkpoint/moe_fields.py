"""A mixture of experts in config.json: four families' words for the same numbers, read and written.

    Mixtral        num_local_experts, an expert as wide as intermediate_size, every layer sparse
    Qwen3-MoE      num_experts, decoder_sparse_step, mlp_only_layers, norm_topk_prob
    DeepSeek-V3    n_routed_experts, sigmoid with a bias, groups, shared experts, dense layers first
    DeepSeek-V2    the same with a softmax, and without groups: as V2-Lite

Source: transformers, models/*/configuration_*.py. What would change the arithmetic and is not computed here
is refused by name.
"""

from dataclasses import asdict
from typing import Any

from aiinfra.checkpoint.fields import count, number, truth
from aiinfra.errors import LoadError
from aiinfra.model.moe_config import MoEConfig

# What a family's config means where a key is left out.
MOE_DEFAULTS: dict[str, dict[str, Any]] = {
    "mixtral": {"num_experts_per_tok": 2, "router_aux_loss_coef": 0.001},
    "qwen3_moe": {"num_experts_per_tok": 8, "moe_intermediate_size": 768, "router_aux_loss_coef": 0.001},
    "deepseek_v3": {
        "num_experts_per_tok": 8, "moe_intermediate_size": 2048, "n_shared_experts": 1, "n_group": 8,
        "topk_group": 4, "norm_topk_prob": True, "routed_scaling_factor": 2.5, "first_k_dense_replace": 3},
    "deepseek_v2": {
        "moe_intermediate_size": 1407, "n_shared_experts": 2, "routed_scaling_factor": 1.0,
        "first_k_dense_replace": 0},
}
# How many experts a sparse layer has, by family: transformers 5 writes the last of the words.
_EXPERTS = {
    "mixtral": ("num_local_experts", 8),
    "qwen3_moe": ("num_experts", 128),
    "deepseek_v3": ("n_routed_experts", 256),
    "deepseek_v2": ("n_routed_experts", 64),
}
_USUAL = "num_local_experts"
# Other values than these change the arithmetic.
_SIGMOID = {"scoring_func": "sigmoid", "topk_method": "noaux_tc", "moe_layer_freq": 1}
_SOFTMAX = {"scoring_func": "softmax", "topk_method": "greedy", "moe_layer_freq": 1, "norm_topk_prob": False}
_ONLY: dict[str, dict[str, Any]] = {
    "mixtral": {"router_jitter_noise": 0.0},
    "qwen3_moe": {},
    "deepseek_v3": _SIGMOID,
    "deepseek_v2": _SOFTMAX,
}


def moe_from_json(raw: dict[str, Any], source: str) -> MoEConfig | None:
    """From a parsed config.json whose model_type is known; None for a family without experts. Raises
    LoadError for what is not supported."""
    family = raw["model_type"]
    if family not in _EXPERTS:
        return None
    if _all_dense(raw):
        return None
    for key, value in _ONLY[family].items():
        if raw.get(key, value) not in (None, value):
            raise LoadError(f"{source}: {key}={raw[key]!r} is not supported; here it is {value!r}.")
    word, default = _EXPERTS[family]
    experts = {"experts": raw.get(word) or raw.get(_USUAL, default)}
    read = {"mixtral": _mixtral, "qwen3_moe": _qwen}.get(family, _deepseek)
    return MoEConfig(
        num_experts=count(experts, "experts", source),
        num_experts_per_tok=count(raw, "num_experts_per_tok", source),
        router_aux_loss_coef=number(raw, "router_aux_loss_coef", source, 0.0),
        **read(raw, source))


def _all_dense(raw: dict[str, Any]) -> bool:
    """True for a DeepSeek config whose dense layers, which come first, are all that there are."""
    layers, dense = raw.get("num_hidden_layers"), raw.get("first_k_dense_replace")
    return isinstance(layers, int) and isinstance(dense, int) and dense >= layers


def _mixtral(raw: dict[str, Any], source: str) -> dict[str, Any]:
    return {"moe_intermediate_size": count(raw, "intermediate_size", source)}


def _qwen(raw: dict[str, Any], source: str) -> dict[str, Any]:
    return {
        "moe_intermediate_size": count(raw, "moe_intermediate_size", source),
        "norm_topk_prob": truth(raw, "norm_topk_prob", source),
        "decoder_sparse_step": count({"decoder_sparse_step": 1, **raw}, "decoder_sparse_step", source),
        "mlp_only_layers": _layers(raw, source),
    }


def _deepseek(raw: dict[str, Any], source: str) -> dict[str, Any]:
    dense = raw["first_k_dense_replace"] or 0
    if not isinstance(dense, int) or dense < 0:
        raise LoadError(f"{source}: first_k_dense_replace={dense!r}; it must be a count of layers.")
    found = {
        "moe_intermediate_size": count(raw, "moe_intermediate_size", source),
        "n_shared_experts": count(raw, "n_shared_experts", source),
        "routed_scaling_factor": number(raw, "routed_scaling_factor", source),
        "first_k_dense_replace": dense,
    }
    if raw["model_type"] == "deepseek_v2":
        return {**found, "norm_topk_prob": False}        # and groups mean nothing to the greedy choice
    return {
        **found,
        "scoring_func": "sigmoid",
        "norm_topk_prob": truth(raw, "norm_topk_prob", source, default=True),
        "n_group": count(raw, "n_group", source),
        "topk_group": count(raw, "topk_group", source),
    }


def _layers(raw: dict[str, Any], source: str) -> tuple[int, ...]:
    layers = raw.get("mlp_only_layers") or []
    if not isinstance(layers, list) or not all(isinstance(layer, int) for layer in layers):
        raise LoadError(f"{source}: mlp_only_layers={layers!r}; it must be a list of layers' numbers.")
    return tuple(layers)


def moe_to_json(moe: MoEConfig, family: str) -> dict[str, Any]:
    """The keys that `moe_from_json` and transformers 4 and 5 read. Raises ValueError if the family has no
    words for these numbers."""
    word, _ = _EXPERTS[family]
    raw = {word: moe.num_experts, **_words(moe, family)}
    again = moe_from_json({**MOE_DEFAULTS[family], **raw, "model_type": family}, "config.json")
    ours, theirs = asdict(moe), asdict(again)
    for key in ours.keys() - {"bias_update_speed"}:             # of training alone, and in nobody's config
        if ours[key] != theirs[key]:
            raise ValueError(f"{key}={ours[key]!r} has no words in the config of {family}, which means "
                             f"{theirs[key]!r}; the model cannot be saved in Hugging Face's form.")
    return raw


def _words(moe: MoEConfig, family: str) -> dict[str, Any]:
    shared = {
        "num_experts_per_tok": moe.num_experts_per_tok,
        "router_aux_loss_coef": moe.router_aux_loss_coef,
    }
    if family == "mixtral":
        return {**shared, "intermediate_size": moe.moe_intermediate_size}
    shared |= {
        "moe_intermediate_size": moe.moe_intermediate_size,
        "norm_topk_prob": moe.norm_topk_prob,
    }
    if family == "qwen3_moe":
        layers = list(moe.mlp_only_layers)
        return {**shared, "decoder_sparse_step": moe.decoder_sparse_step, "mlp_only_layers": layers}
    shared |= {
        "n_shared_experts": moe.n_shared_experts,
        "routed_scaling_factor": moe.routed_scaling_factor,
        "first_k_dense_replace": moe.first_k_dense_replace,
    }
    if family == "deepseek_v2":
        return {**shared, **_SOFTMAX}
    return {**shared, **_SIGMOID, "n_group": moe.n_group, "topk_group": moe.topk_group}
