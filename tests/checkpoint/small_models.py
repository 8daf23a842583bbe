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
MLA = {"kv_lora_rank": 32, "q_lora_rank": 24, "qk_nope_head_dim": 12, "qk_rope_head_dim": 8,
       "v_head_dim": 20, "num_key_value_heads": 6}
DENSE = {**LLAMA, **MLA, "first_k_dense_replace": 3}
SPARSE = {"first_k_dense_replace": 1, "n_routed_experts": 8, "num_experts_per_tok": 2,
          "moe_intermediate_size": 24, "n_shared_experts": 2}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 32,
        "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 0.7, "mscale_all_dim": 1.2}
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
    "deepseek v3": (transformers.DeepseekV3Config, {**DENSE, **SPARSE, "n_group": 4, "topk_group": 2}),
    "deepseek v3 dense, yarn": (transformers.DeepseekV3Config, {
        **DENSE, "rope_parameters": YARN, "rms_norm_eps": 1e-3}),
    "deepseek v3 dense, biases, halves": (transformers.DeepseekV3Config, {
        **DENSE, "attention_bias": True, "rope_interleave": False, "q_lora_rank": None}),
    "deepseek v2": (transformers.DeepseekV2Config, {
        **DENSE, **SPARSE, "rope_parameters": YARN, "q_lora_rank": None, "routed_scaling_factor": 1.7}),
    "deepseek v2 dense, biases": (transformers.DeepseekV2Config, {
        **DENSE, "attention_bias": True, "mlp_bias": True}),
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
