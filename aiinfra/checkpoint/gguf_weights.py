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
from aiinfra.checkpoint.huggingface_config import FAMILIES, required
from aiinfra.checkpoint.names import gguf_parts
from aiinfra.errors import LoadError, reading
from aiinfra.kernels.quant_matmul import PackedWeight, from_q4_1
from aiinfra.model.config import ModelConfig, RopeScaling

GGUF_FAMILIES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


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

    def need(key: str) -> Any:
        return required(meta, f"{arch}.{key}", source)

    heads = need("attention.head_count")
    width = need("embedding_length")
    eos = meta.get("tokenizer.ggml.eos_token_id")
    if "tokenizer.ggml.tokens" in meta:
        vocab_size = len(meta["tokenizer.ggml.tokens"])
    else:
        vocab_size = need("vocab_size")
    return ModelConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        num_hidden_layers=need("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=meta.get(f"{arch}.attention.head_count_kv", heads),
        head_dim=meta.get(f"{arch}.attention.key_length", width // max(heads, 1)),
        intermediate_size=need("feed_forward_length"),
        max_position_embeddings=need("context_length"),
        rms_norm_eps=need("attention.layer_norm_rms_epsilon"),
        rope_theta=meta.get(f"{arch}.rope.freq_base", 10_000.0),
        rope_scaling=_rope_scaling(meta, arch, source),
        tie_word_embeddings="output.weight" not in tensor_names,
        eos_token_ids=() if eos is None else (eos,),
        bos_token_id=meta.get("tokenizer.ggml.bos_token_id"),
        **FAMILIES[GGUF_FAMILIES[arch]])


def _rope_scaling(meta: dict[str, Any], arch: str, source: str) -> RopeScaling | None:
    kind = meta.get(f"{arch}.rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind == "linear":
        return RopeScaling("linear", factor=float(meta[f"{arch}.rope.scaling.factor"]))
    raise LoadError(f"{source}: rope scaling {kind!r} is not supported. Supported: none, linear "
                    "(and Llama 3's frequency factors, which are a tensor of the file).")
