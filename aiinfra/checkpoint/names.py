"""What each format calls our layers: the one table for reading and for writing.

    ours                          Hugging Face                      GGUF
    layers.3.attention.qkv   <─>  q_proj + k_proj + v_proj     <──  attn_q + attn_k + attn_v
    layers.3.mlp.gate_up     <─>  gate_proj + up_proj          <──  ffn_gate + ffn_up
    layers.3.mlp.experts.…   <─>  experts.0.… + experts.1.… + …

Our layer may be several matrices of a file, stacked along the output: its parts. `part_rows` says where one
part ends and the next begins, from the model's config alone. Experts are stacked once more, [E, out, in].
"""

import re
from dataclasses import dataclass

from aiinfra.model.config import ModelConfig


@dataclass(frozen=True)
class LayerNames:
    """One row of the table. `{}` stands for the layer's number, a second one for the expert's. Names are
    without `.weight` and `.bias`."""

    ours: str
    huggingface: tuple[str, ...]           # the parts, in the order in which they are stacked
    gguf: tuple[str, ...] = ()
    fused: str = ""                        # Hugging Face's name where all parts are one matrix (Phi-3)
    per_expert: bool = False               # each expert has all parts
    bias: str = "bias"                     # Hugging Face's word for it


LAYER_NAMES = (
    LayerNames("embed", ("model.embed_tokens",), ("token_embd",)),
    LayerNames("layers.{}.attention_norm", ("model.layers.{}.input_layernorm",), ("blk.{}.attn_norm",)),
    LayerNames(
        "layers.{}.attention.qkv",
        ("model.layers.{}.self_attn.q_proj", "model.layers.{}.self_attn.k_proj",
         "model.layers.{}.self_attn.v_proj"),
        ("blk.{}.attn_q", "blk.{}.attn_k", "blk.{}.attn_v"),
        fused="model.layers.{}.self_attn.qkv_proj"),
    LayerNames("layers.{}.attention.q_norm", ("model.layers.{}.self_attn.q_norm",), ("blk.{}.attn_q_norm",)),
    LayerNames("layers.{}.attention.k_norm", ("model.layers.{}.self_attn.k_norm",), ("blk.{}.attn_k_norm",)),
    LayerNames("layers.{}.attention.q", ("model.layers.{}.self_attn.q_proj",)),
    LayerNames("layers.{}.attention.q_a", ("model.layers.{}.self_attn.q_a_proj",)),
    LayerNames("layers.{}.attention.q_a_norm", ("model.layers.{}.self_attn.q_a_layernorm",)),
    LayerNames("layers.{}.attention.q_b", ("model.layers.{}.self_attn.q_b_proj",)),
    LayerNames("layers.{}.attention.kv_a", ("model.layers.{}.self_attn.kv_a_proj_with_mqa",)),
    LayerNames("layers.{}.attention.kv_a_norm", ("model.layers.{}.self_attn.kv_a_layernorm",)),
    LayerNames("layers.{}.attention.kv_b", ("model.layers.{}.self_attn.kv_b_proj",)),
    LayerNames("layers.{}.attention.out", ("model.layers.{}.self_attn.o_proj",), ("blk.{}.attn_output",)),
    LayerNames("layers.{}.mlp_norm", ("model.layers.{}.post_attention_layernorm",), ("blk.{}.ffn_norm",)),
    LayerNames(
        "layers.{}.mlp.gate_up",
        ("model.layers.{}.mlp.gate_proj", "model.layers.{}.mlp.up_proj"),
        ("blk.{}.ffn_gate", "blk.{}.ffn_up"),
        fused="model.layers.{}.mlp.gate_up_proj"),
    LayerNames("layers.{}.mlp.down", ("model.layers.{}.mlp.down_proj",), ("blk.{}.ffn_down",)),
    LayerNames("layers.{}.mlp.router", ("model.layers.{}.mlp.gate",), bias="e_score_correction_bias"),
    LayerNames(
        "layers.{}.mlp.experts.gate_up",
        ("model.layers.{}.mlp.experts.{}.gate_proj", "model.layers.{}.mlp.experts.{}.up_proj"),
        per_expert=True),
    LayerNames(
        "layers.{}.mlp.experts.down", ("model.layers.{}.mlp.experts.{}.down_proj",), per_expert=True),
    LayerNames(
        "layers.{}.mlp.shared.gate_up",
        ("model.layers.{}.mlp.shared_experts.gate_proj", "model.layers.{}.mlp.shared_experts.up_proj")),
    LayerNames("layers.{}.mlp.shared.down", ("model.layers.{}.mlp.shared_experts.down_proj",)),
    LayerNames("norm", ("model.norm",), ("output_norm",)),
    LayerNames("lm_head", ("lm_head",), ("output",)),
)
_ROW_OF = {row.ours: row for row in LAYER_NAMES}

# What some files carry beside the weights and nobody needs: rotary frequencies, which follow from the config.
_MIXTRAL = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}      # its words for an expert's matrices
NO_WEIGHTS = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")


def huggingface_parts(ours: str, config: ModelConfig) -> list[str]:
    """Hugging Face's names of the parts of our parameter, as `layers.3.attention.qkv.weight`; of experts, one
    after another. Raises KeyError if the table has no such layer."""
    row, number, leaf = _find(ours)
    word = row.bias if leaf == "bias" else leaf
    copies = range(_copies(row, config))
    return [f"{part.format(number, copy)}.{word}" for copy in copies for part in row.huggingface]


def usual_name(mixtral: str) -> str:
    """What most families call a tensor that Mixtral calls so; other tensors' names as they are."""
    name = mixtral.replace(".block_sparse_moe.", ".mlp.")
    for usual, theirs in _MIXTRAL.items():
        name = name.replace(f".{theirs}.weight", f".{usual}.weight")
    return name


def mixtral_name(usual: str) -> str:
    """The same backwards."""
    name = usual.replace(".mlp.", ".block_sparse_moe.")
    for word, theirs in _MIXTRAL.items():
        name = name.replace(f".{word}.weight", f".{theirs}.weight")
    return name


def fused_part(ours: str) -> str:
    """What Hugging Face calls our parameter where a family keeps all its parts in one matrix; empty: none
    does."""
    row, number, leaf = _find(ours)
    return row.fused and f"{row.fused.format(number)}.{leaf}"


def gguf_parts(ours: str) -> list[str]:
    """GGUF's names of the parts of our parameter; as `huggingface_parts`."""
    row, number, leaf = _find(ours)
    return [f"{part.format(number)}.{leaf}" for part in row.gguf]


def _find(ours: str) -> tuple[LayerNames, str, str]:
    """The row, the layer's number and the leaf (weight or bias) of our parameter."""
    layer, leaf = ours.rsplit(".", 1)
    number = re.search(r"\d+", layer)
    if number is None:
        return _ROW_OF[layer], "", leaf
    return _ROW_OF[layer.replace(number.group(), "{}", 1)], number.group(), leaf


def part_rows(ours: str, config: ModelConfig, rows: int) -> list[int]:
    """How many of our parameter's rows (its outputs) belong to each part."""
    layer = ours.rsplit(".", 1)[0]
    if layer.endswith("attention.qkv"):
        kv_rows = config.num_key_value_heads * config.head_dim
        return [config.num_attention_heads * config.head_dim, kv_rows, kv_rows]
    row, *_ = _find(ours)
    parts = len(row.huggingface) * _copies(row, config)
    return [rows // parts] * parts


def _copies(row: LayerNames, config: ModelConfig) -> int:
    """How often the row's parts are there."""
    if not row.per_expert or config.moe is None:
        return 1
    return config.moe.num_experts
