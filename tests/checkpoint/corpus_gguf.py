"""GGUF files of small models, as llama.cpp's converter writes them, and what is said of them.

Logits are compared with transformers, which opens these files (`gguf_file=`), or with the model that was
written; prompts with tokenizers that are built from llama.cpp's rules.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tokenizers
import torch
import transformers

from tests.checkpoint.corpus_parts import byte_level, small_model
from tests.checkpoint.corpus_says import Says, logits_of

WIDE = {"hidden_size": 64, "intermediate_size": 96}  # whole blocks of 32
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
SPECIAL = ("<|begin|>", "<|end_of_mine|>", "<|pad|>")


def gguf_name(name: str) -> str:
    """llama.cpp's name of a Hugging Face tensor."""
    stem, leaf = name.rsplit(".", 1)
    if stem in TOP:
        return f"{TOP[stem]}.{leaf}"
    layer, inner = stem.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{NAMES[inner]}.{leaf}"


def paired(value: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k in the order in which llama.cpp turns them: neighbours together."""
    return (
        value.reshape(heads, 2, value.shape[0] // heads // 2, *value.shape[1:])
        .swapaxes(1, 2)
        .reshape(value.shape)
    )


def tensors_of(model: Any, arch: str) -> dict[str, np.ndarray]:
    """The model's tensors as llama.cpp's converter writes them."""
    held = {}
    tied = model.config.tie_word_embeddings
    for name, parameter in model.state_dict().items():
        value = parameter.detach().numpy()
        if arch == "llama" and ".q_proj." in name:
            value = paired(value, model.config.num_attention_heads)
        if arch == "llama" and ".k_proj." in name:
            value = paired(value, model.config.num_key_value_heads)
        if not (tied and name == "lm_head.weight"):
            held[gguf_name(name)] = value
    return held


def write(
    path: Path,
    model: Any,
    arch: str = "llama",
    vocabulary: Callable[[gguf.GGUFWriter], None] | None = None,
    keys: dict[str, Any] | None = None,
    more: dict[str, np.ndarray] | None = None,
    quantise: gguf.GGMLQuantizationType | None = None,
) -> Path:
    """A GGUF file of this model. keys: more or other values under `arch.`; None leaves one out."""
    writer = gguf.GGUFWriter(path, arch)
    config = model.config
    values = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": 10000.0,
        "rope.dimension_count": config.head_dim if arch != "qwen2" else None,
        **(keys or {}),
    }
    if arch == "qwen3":
        values.update({"attention.key_length": config.head_dim, "attention.value_length": config.head_dim})
    for key, value in values.items():
        if value is not None:
            add(
                writer,
                key if key.startswith(("split.", "general.", "tokenizer.")) else f"{arch}.{key}",
                value,
            )
    (vocabulary or plain_vocabulary())(writer)
    for name, value in {**tensors_of(model, arch), **(more or {})}.items():
        if quantise is not None and value.ndim == 2 and value.dtype == np.float32:
            writer.add_tensor(name, gguf.quants.quantize(value, quantise), raw_dtype=quantise)
        else:
            writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """One pair of the header, with the type that converters give it."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, list):
        writer.add_array(key, value)
    else:
        writer.add_string(key, value)


def vocabulary_of(
    backend: tokenizers.Tokenizer, model: str, pre: str | None = None, **ids: Any
) -> Callable[[gguf.GGUFWriter], None]:
    """The tokenizer's part of a header. ids: other keys under `tokenizer.ggml.`, and `chat_template`."""
    raw = json.loads(backend.to_str())
    special = {token["content"]: token["special"] for token in raw["added_tokens"]}
    tokens = [text for text, _ in sorted(backend.get_vocab().items(), key=lambda item: item[1])]

    def kind(text: str) -> gguf.TokenType:
        if text == "<unk>":
            return gguf.TokenType.UNKNOWN
        if text in special:
            return gguf.TokenType.CONTROL if special[text] else gguf.TokenType.USER_DEFINED
        return gguf.TokenType.BYTE if text.startswith("<0x") else gguf.TokenType.NORMAL

    def tell(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model(model)
        writer.add_token_list(tokens)
        writer.add_token_types([kind(text) for text in tokens])
        if pre is not None:
            writer.add_tokenizer_pre(pre)
        if model == "llama":
            writer.add_token_scores([-float(i) for i in range(len(tokens))])
        else:
            writer.add_token_merges([" ".join(pair) for pair in raw["model"]["merges"]])
        for key, value in ids.items():
            add(
                writer,
                "tokenizer.chat_template" if key == "chat_template" else f"tokenizer.ggml.{key}",
                value,
            )

    return tell


def plain_vocabulary() -> Callable[[gguf.GGUFWriter], None]:
    """A usual one; its end is <|end_of_mine|>."""
    backend = byte_level(*SPECIAL)
    return vocabulary_of(
        backend,
        "gpt2",
        "gpt-2",
        bos_token_id=backend.token_to_id("<|begin|>"),
        eos_token_id=backend.token_to_id("<|end_of_mine|>"),
    )


def model_of(kind: str = "llama", **settings: Any) -> Any:
    """A small model over the plain vocabulary."""
    return small_model(kind, byte_level(*SPECIAL).get_vocab_size(), **{**WIDE, **settings})


def says_of(
    path: Path, backend: tokenizers.Tokenizer | None = None, logits: Any = None, **named: Any
) -> Says:
    """Prompts as `backend` has them; logits as transformers has them, which opens the file."""
    if logits is None:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32
        ).eval()
        logits = logits_of(model)
    backend = backend or byte_level(*SPECIAL)
    return Says(
        path=path,
        encode=lambda text: backend.encode(text).ids,
        decode=lambda ids: backend.decode(ids),
        logits=logits,
        vocab=backend.get_vocab_size(),
        **named,
    )


def ends_at(*texts: str, backend: tokenizers.Tokenizer | None = None) -> set[int]:
    """The ids of these tokens."""
    return {(backend or byte_level(*SPECIAL)).token_to_id(text) for text in texts}
