"""WHAT IS COMPUTED: a Llama-family decoder. It knows no file, no bit width and no rank.

Reading order: config, layers, attention, transformer, kv_cache; moe_config, moe, balance;
mla_config, mla; recommender.
"""

from aiinfra.model.config import ModelConfig, RopeScaling
from aiinfra.model.kv_cache import KVCache
from aiinfra.model.moe_config import MoEConfig
from aiinfra.model.transformer import Transformer

__all__ = ["ModelConfig", "MoEConfig", "RopeScaling", "KVCache", "Transformer"]
