"""The weights and the config of a GGUF file, in our order and by our names.

A file's matrices may be kept in blocks of few bits (see gguf.py for the file itself). They are de-quantised
as they are read, or, where all parts of a layer are Q4_1, handed on as the 4-bit blocks that they are.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import torch
from torch import Tensor

from aiinfra.checkpoint.gguf import GGUFFile
from aiinfra.checkpoint.fields import count, number, required, token_ids
from aiinfra.checkpoint.names import gguf_parts
from aiinfra.checkpoint.rope import rope_from_gguf
from aiinfra.errors import LoadError, reading
from aiinfra.kernels.quant_matmul import PackedWeight, from_q4_1
from aiinfra.model.config import ModelConfig, RopeScaling

# architecture -> what it adds to the plain Llama decoder
GGUF_FAMILIES: dict[str, dict[str, bool]] = {
    "llama": {},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True},
}
_BIASES = {
    "qkv_bias": "blk.0.attn_q.bias",
    "out_bias": "blk.0.attn_output.bias",
    "mlp_bias": "blk.0.ffn_down.bias",
}
# Keys under the architecture that are read here, and some that change no number.
_READ = {
    "context_length", "embedding_length", "block_count", "feed_forward_length", "vocab_size",
    "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
    "attention.layer_norm_rms_epsilon", "attention.sliding_window", "rope.freq_base", "rope.dimension_count",
    "rope.scale_linear", "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length",
    "rope.scaling.attn_factor", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
}
_HARMLESS = {"rope.scaling.finetuned", "tensor_data_layout", "pooling_type", "attention.causal"}


class GGUFWeights:
    """A single GGUF file: a `WeightFile`."""

    def __init__(self, path: str | Path) -> None:
        self.file = GGUFFile(path)
        self.label = self.file.path.name
        with reading(self.label):
            self.config = config_from_gguf(self.file.metadata, set(self.file.tensors), self.label)
        if "rope_freqs.weight" in self.file.tensors:          # Llama 3's scaling, stored as its result
            factors = tuple(self.file.tensor("rope_freqs.weight").tolist())
            self.config = replace(self.config, rope_scaling=RopeScaling("factors", factors=factors))
        self._paired_rope = self.file.metadata["general.architecture"] == "llama"

    def names(self) -> set[str]:
        """See WeightFile. Llama 3's frequency factors are in the config already."""
        return set(self.file.tensors) - {"rope_freqs.weight"}

    def parts(self, ours: str) -> list[str]:
        """See WeightFile."""
        return gguf_parts(ours)

    def shape(self, name: str) -> tuple[int, ...]:
        """See WeightFile."""
        return self.file.info(name).shape

    def read_into(self, name: str, out: Tensor) -> None:
        """See WeightFile. Llama's q and k rows are put back into Hugging Face's order."""
        if self._is_paired(name):
            out.copy_(self._unpair(self.file.tensor(name)))
        else:
            self.file.read_into(name, out)

    def read_slice(self, name: str, where: tuple[slice, ...], out: Tensor) -> None:
        """See WeightFile. The whole tensor is read: its blocks and its rows' order are no slices of it."""
        whole = torch.empty(self.shape(name), dtype=out.dtype)
        self.read_into(name, whole)
        out.copy_(whole[where])

    def blocks(self, ours: str) -> PackedWeight | None:
        """See WeightFile: where all parts are Q4_1. Rows change places as in `read_into`, whole, so blocks
        stay blocks."""
        parts = self.parts(ours)
        if any(self.file.info(part).kind != gguf.GGMLQuantizationType.Q4_1 for part in parts):
            return None
        rows = torch.cat([self._raw_rows(part) for part in parts])             # uint8 [out, in/32 · 20]
        return from_q4_1(rows.numpy())

    def _raw_rows(self, name: str) -> Tensor:
        rows = torch.from_numpy(self.file.raw(name))
        return self._unpair(rows) if self._is_paired(name) else rows

    def _is_paired(self, name: str) -> bool:
        return self._paired_rope and name.split(".")[-2] in ("attn_q", "attn_k")

    def _unpair(self, rows: Tensor) -> Tensor:
        # llama.cpp turns neighbours (0,1), (2,3), …; we turn (0, Dh/2), (1, Dh/2 + 1), …
        pairs = rows.view(-1, self.config.head_dim // 2, 2, *rows.shape[1:])      # [heads, Dh/2, 2, …]
        return pairs.transpose(1, 2).reshape(rows.shape)


def config_from_gguf(meta: dict[str, Any], tensor_names: set[str], source: str) -> ModelConfig:
    """From a GGUF file's metadata. Raises LoadError for what is not supported."""
    arch = meta.get("general.architecture")
    if arch not in GGUF_FAMILIES:
        raise LoadError(f"{source}: architecture {arch!r} is not supported. "
                        f"Supported: {', '.join(GGUF_FAMILIES)}.")
    meta = _one_for_all_layers(meta, source)
    _refuse(meta, arch, source)
    heads = count(meta, f"{arch}.attention.head_count", source)
    width = count(meta, f"{arch}.embedding_length", source)
    head_dim = meta.get(f"{arch}.attention.key_length") or width // heads
    _check_head(meta, arch, source, head_dim)
    context = count(meta, f"{arch}.context_length", source)
    if meta.get(f"{arch}.attention.sliding_window"):       # within it nothing is hidden; here all is seen
        context = min(context, count(meta, f"{arch}.attention.sliding_window", source))
    theta, scaling = rope_from_gguf(meta, arch, source, head_dim)
    vocabulary = meta.get("tokenizer.ggml.tokens")
    return ModelConfig(
        vocab_size=required(meta, f"{arch}.vocab_size", source) if vocabulary is None else len(vocabulary),
        hidden_size=width,
        num_hidden_layers=required(meta, f"{arch}.block_count", source),
        num_attention_heads=heads,
        num_key_value_heads=meta.get(f"{arch}.attention.head_count_kv", heads),
        head_dim=head_dim,
        intermediate_size=required(meta, f"{arch}.feed_forward_length", source),
        max_position_embeddings=context,
        rms_norm_eps=number(meta, f"{arch}.attention.layer_norm_rms_epsilon", source),
        rope_theta=theta,
        rope_scaling=scaling,
        tie_word_embeddings="output.weight" not in tensor_names,
        eos_token_ids=token_ids(meta, "tokenizer.ggml.eos_token_id", source),
        bos_token_id=meta.get("tokenizer.ggml.bos_token_id"),
        **GGUF_FAMILIES[arch] | {key: True for key, tensor in _BIASES.items() if tensor in tensor_names})


def _one_for_all_layers(meta: dict[str, Any], source: str) -> dict[str, Any]:
    """Where a file lists a number for each layer, the one that they share. Raises LoadError if they
    differ."""
    found = dict(meta)
    for key, value in meta.items():
        if isinstance(value, list) and not key.startswith(("tokenizer.", "general.")):
            if len(set(value)) != 1:
                raise LoadError(f"{source}: {key}={value}: layers of several sizes are not supported.")
            found[key] = value[0]
    return found


def _refuse(meta: dict[str, Any], arch: str, source: str) -> None:
    """Keys that nobody reads here, unless they say "none": they may change the arithmetic."""
    if meta.get("split.count", 1) > 1:
        part = meta.get("split.no", 0) + 1
        raise LoadError(f"{source} is part {part} of {meta['split.count']} of a split file. Join them first: "
                        "llama-gguf-split --merge.")
    for key, value in meta.items():
        name = key.removeprefix(f"{arch}.")
        if name != key and value and name not in _READ | _HARMLESS:
            raise LoadError(f"{source}: {key}={value!r} is not supported: it may change what the model "
                            "computes, and nothing here knows it.")


def _check_head(meta: dict[str, Any], arch: str, source: str, head_dim: int) -> None:
    """Values are as wide as keys here, and whole heads are turned."""
    for name in ("attention.value_length", "rope.dimension_count"):
        size = meta.get(f"{arch}.{name}", head_dim)
        if size != head_dim:
            raise LoadError(f"{source}: {arch}.{name}={size!r} is not supported: it must be the size of a "
                            f"head, {head_dim}.")
