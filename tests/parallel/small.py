"""Small models in float64, every weight random, as all ranks of a test make them alike."""

import torch
from torch import nn

from aiinfra.model import ModelConfig, Transformer

SMALL = {"vocab_size": 48, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 8,
         "num_key_value_heads": 4, "head_dim": 6, "intermediate_size": 32, "max_position_embeddings": 128}
VARIANTS = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "biases": {"qkv_bias": True, "out_bias": True, "mlp_bias": True},
    "qk norm": {"qk_norm": True},
    "biases and qk norm": {"qkv_bias": True, "out_bias": True, "mlp_bias": True, "qk_norm": True},
}


def small_config(variant: str = "plain", **changes: int | bool) -> ModelConfig:
    """A config of the variant; `changes` go before."""
    return ModelConfig(**{**SMALL, **VARIANTS[variant], **changes})


def small_model(variant: str = "plain", seed: int = 0, **changes: int | bool) -> Transformer:
    """A model in float64. Norms and biases are random, too: what is 1 or 0 hides a fault."""
    torch.manual_seed(seed)
    model = Transformer(small_config(variant, **changes)).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, mean=1.0 if parameter.ndim == 1 else 0.0, std=0.3)
    return model
