"""What each format calls our layers: the one table for reading and for writing.

    ours                          Hugging Face                      GGUF
    layers.3.attention.qkv   <─>  q_proj + k_proj + v_proj     <──  attn_q + attn_k + attn_v
    layers.3.mlp.gate_up     <─>  gate_proj + up_proj          <──  ffn_gate + ffn_up

Our layer may be several matrices of a file, stacked along the output: its parts. `part_rows` says where one
part ends and the next begins, from the model's config alone.
"""

import re
from dataclasses import dataclass

from aiinfra.model.config import ModelConfig


@dataclass(frozen=True)
class LayerNames:
    """One row of the table. `{}` stands for the layer's number. Names are without `.weight` and `.bias`."""

    ours: str
    huggingface: tuple[str, ...]           # the parts, in the order in which they are stacked
    gguf: tuple[str, ...]
    fused: str = ""                        # Hugging Face's name where all parts are one matrix (Phi-3)


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
    LayerNames("layers.{}.attention.out", ("model.layers.{}.self_attn.o_proj",), ("blk.{}.attn_output",)),
    LayerNames("layers.{}.mlp_norm", ("model.layers.{}.post_attention_layernorm",), ("blk.{}.ffn_norm",)),
    LayerNames(
        "layers.{}.mlp.gate_up",
        ("model.layers.{}.mlp.gate_proj", "model.layers.{}.mlp.up_proj"),
        ("blk.{}.ffn_gate", "blk.{}.ffn_up"),
        fused="model.layers.{}.mlp.gate_up_proj"),
    LayerNames("layers.{}.mlp.down", ("model.layers.{}.mlp.down_proj",), ("blk.{}.ffn_down",)),
    LayerNames("norm", ("model.norm",), ("output_norm",)),
    LayerNames("lm_head", ("lm_head",), ("output",)),
)
_ROW_OF = {row.ours: row for row in LAYER_NAMES}

# What some files carry beside the weights and nobody needs: rotary frequencies, which follow from the config.
NO_WEIGHTS = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")


def huggingface_parts(ours: str) -> list[str]:
    """Hugging Face's names of the parts of our parameter, as `layers.3.attention.qkv.weight`. Raises KeyError
    if the table has no such layer."""
    row, number, leaf = _find(ours)
    return [f"{part.format(number)}.{leaf}" for part in row.huggingface]


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
    if layer.endswith("mlp.gate_up"):
        return [config.intermediate_size, config.intermediate_size]
    return [rows]
