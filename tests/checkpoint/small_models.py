"""Small random models of every family that we load, as transformers writes them, and as we read them."""

import torch
import transformers

from aiinfra.checkpoint.fill import fill
from aiinfra.compress.place import PlacePlain
from aiinfra.checkpoint.huggingface import HuggingFaceFolder
from aiinfra.compress.packed import PlacePacked
from aiinfra.model import Transformer

LLAMA = {"vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3,
         "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 256}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 16}
CASES = {
    "llama tied": (transformers.LlamaConfig, {**LLAMA, "tie_word_embeddings": True}),
    "llama untied, one KV head each": (transformers.LlamaConfig, {**LLAMA, "num_key_value_heads": 6}),
    "llama odd heads": (transformers.LlamaConfig, {**LLAMA, "hidden_size": 40, "num_attention_heads": 5,
                                                   "num_key_value_heads": 1}),
    "llama head size of its own": (transformers.LlamaConfig, {**LLAMA, "head_dim": 24}),
    "llama3 rope": (transformers.LlamaConfig, {**LLAMA, "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}),
    "llama linear rope": (transformers.LlamaConfig, {**LLAMA, "rope_parameters": {
        "rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}}),
    "qwen2": (transformers.Qwen2Config, {**LLAMA}),
    "qwen2 tied": (transformers.Qwen2Config, {**LLAMA, "tie_word_embeddings": True}),
    "qwen3": (transformers.Qwen3Config, {**LLAMA, "head_dim": 16}),
    "qwen3 tied": (transformers.Qwen3Config, {**LLAMA, "head_dim": 16, "tie_word_embeddings": True}),
    "mixtral": (transformers.MixtralConfig, {**LLAMA, "num_local_experts": 4}),
    "mixtral tied": (transformers.MixtralConfig, {**LLAMA, "num_local_experts": 8, "num_experts_per_tok": 3,
                                                  "tie_word_embeddings": True}),
    "qwen3 moe": (transformers.Qwen3MoeConfig, {**LLAMA, **EXPERTS}),
    "qwen3 moe, norm, some dense": (transformers.Qwen3MoeConfig, {
        **LLAMA, **EXPERTS, "num_hidden_layers": 4, "norm_topk_prob": True, "decoder_sparse_step": 2,
        "mlp_only_layers": [1]}),
}


def reference_model(case: str, **changes: int) -> transformers.PreTrainedModel:
    kind, settings = CASES[case]
    settings = {**settings, **changes}
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(kind(**settings)).eval().float()
    for name, parameter in model.named_parameters():      # biases start at 0 and norms at 1: make them matter
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=0.0 if "bias" in name else 1.0, std=0.5)
        else:
            torch.nn.init.normal_(parameter, std=0.15)
    return model


def our_model(folder, packed: bool = False, dtype: torch.dtype = torch.float32) -> Transformer:
    source = HuggingFaceFolder(folder)
    model = Transformer(source.config)
    fill(model, source, PlacePacked(model) if packed else PlacePlain(), dtype)
    return model.eval()
