"""A small random model as a GGUF file, by the gguf package's own writer."""

from pathlib import Path

import gguf
import torch
import transformers

from aiinfra.checkpoint.fill import fill
from aiinfra.compress.place import PlacePlain
from aiinfra.checkpoint.gguf_weights import GGUFWeights
from aiinfra.model import Transformer

_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}


def write_gguf(path: Path, model: transformers.PreTrainedModel,
               extra: dict[str, torch.Tensor] | None = None) -> Path:
    """The model in float32, as llama.cpp's converter lays it out, and more tensors if wanted."""
    config, arch = model.config, model.config.model_type
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    tensors = dict(model.state_dict())
    if config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    for name, tensor in tensors.items():
        if arch == "llama" and ("q_proj" in name or "k_proj" in name):
            halves = tensor.view(-1, 2, head_dim // 2, *tensor.shape[1:])       # llama.cpp turns neighbours
            tensor = halves.transpose(1, 2).reshape(tensor.shape)
        writer.add_tensor(_translate(name), tensor.numpy())
    for name, tensor in (extra or {}).items():
        writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_model(path: Path) -> Transformer:
    """The file, as we read it."""
    source = GGUFWeights(path)
    model = Transformer(source.config)
    fill(model, source, PlacePlain())
    return model.eval()


def _translate(name: str) -> str:
    stem, leaf = name.rsplit(".", 1)
    if stem in _NAMES:
        return f"{_NAMES[stem]}.{leaf}"
    _, _, number, inner = stem.split(".", 3)
    return f"blk.{number}.{_NAMES[inner]}.{leaf}"
