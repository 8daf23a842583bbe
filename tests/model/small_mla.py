"""A small decoder with latent attention, and the shape of one as large as DeepSeek-V3."""

from dataclasses import replace

from aiinfra.model import ModelConfig
from aiinfra.model.mla_config import MLAConfig

LATENT = ModelConfig(vocab_size=53, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                     num_key_value_heads=4, head_dim=8, intermediate_size=48, max_position_embeddings=128,
                     mla=MLAConfig(kv_lora_rank=24, q_lora_rank=20, qk_nope_head_dim=12, qk_rope_head_dim=8,
                                   v_head_dim=10))
# From the config.json of deepseek-ai/DeepSeek-V3, all layers dense.
DEEPSEEK_V3 = ModelConfig(vocab_size=129_280, hidden_size=7168, num_hidden_layers=61, num_attention_heads=128,
                          num_key_value_heads=128, head_dim=64, intermediate_size=18_432,
                          max_position_embeddings=163_840,
                          mla=MLAConfig(kv_lora_rank=512, q_lora_rank=1536, qk_nope_head_dim=128,
                                        qk_rope_head_dim=64, v_head_dim=128))


def latent(mla: dict | None = None, **changes) -> ModelConfig:
    """LATENT with these changes, those of its `mla` by themselves."""
    return replace(LATENT, mla=replace(LATENT.mla, **(mla or {})), **changes)
