"""A small random model with sharp logits, and what the engine's tests do with it."""

import torch

from aiinfra.engine.engine import Engine
from aiinfra.engine.generate import generate_cached
from aiinfra.engine.runner import PagedCache
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.model import ModelConfig, Transformer

SMALL = ModelConfig(vocab_size=53, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                    head_dim=8, intermediate_size=48, max_position_embeddings=128)


def random_model(config: ModelConfig = SMALL, seed: int = 1) -> Transformer:
    torch.manual_seed(seed)
    model = Transformer(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.35)               # sharp logits: no near-ties
    return model


def engine_with(model: Transformer, blocks: int, block_size: int = 4, **settings) -> Engine:
    per_block = PagedCache.block_bytes(model.config, block_size, model.dtype)
    return Engine(model, cache_bytes=blocks * per_block, block_size=block_size, **settings)


def alone(model: Transformer, prompt: list[int], params: SamplingParams, answer: int = 0) -> list[int]:
    return [s.token_id for s in generate_cached(model, prompt, params, answer=answer)]
