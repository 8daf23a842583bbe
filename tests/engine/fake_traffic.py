"""What the engine's tests do with a GPU that computes nothing: models of every kind, and traffic that asks
for all that can be asked."""

import random
from dataclasses import replace

from aiinfra.bench.gpu import random_model
from aiinfra.compress import quantized
from aiinfra.engine.engine import Engine
from aiinfra.engine.runner import PagedCache
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.gpu.fake import FakeGPU
from aiinfra.gpu.replaced import replaced
from aiinfra.model import MoEConfig, ModelConfig, Transformer
from aiinfra.model.mla_config import MLAConfig

PLAIN = ModelConfig(vocab_size=512, hidden_size=128, num_hidden_layers=2, num_attention_heads=4,
                    num_key_value_heads=2, head_dim=32, intermediate_size=256, max_position_embeddings=512)
CONFIGS = {
    "plain": PLAIN,
    "norms of q and k": replace(PLAIN, qk_norm=True, tie_word_embeddings=True),
    "wide heads": replace(PLAIN, num_attention_heads=8, head_dim=128),
    "experts": replace(PLAIN, moe=MoEConfig(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=64,
                                            n_shared_experts=1)),
    "latent": replace(PLAIN, num_key_value_heads=4, mla=MLAConfig(
        kv_lora_rank=64, q_lora_rank=32, qk_nope_head_dim=32, qk_rope_head_dim=32, v_head_dim=32)),
}
# Engines that ask for the GPU in different ways.
ENGINES = {
    "as it comes": {},
    "no graphs": {"cuda_graphs": False},
    "not one ahead": {"overlap": False},
    "neither": {"cuda_graphs": False, "overlap": False},
    "one": {"mode": "one"},
    "static": {"mode": "static", "max_running": 4},
    "chunks of 32": {"token_budget": 32, "max_running": 4},
    "preempted": {"blocks": 14, "max_running": 6},
    "no prefix cache": {"prefix_caching": False},
    "guesses": {"speculative": "prompt_lookup"},
}
EVERYTHING = [
    {"temperature": 0}, {"temperature": 0.8, "seed": 1}, {"temperature": 1, "top_p": 0.9, "seed": 2},
    {"temperature": 1, "top_k": 5, "min_p": 0.1, "seed": 3}, {"temperature": 0, "logprobs": 3},
    {"temperature": 0.7, "n": 2, "seed": 4, "logprobs": 0}, {"temperature": 0, "repetition_penalty": 1.3},
    {"temperature": 0.9, "min_tokens": 4, "stop_token_ids": [3], "ignore_eos": False, "seed": 5},
]


def model_on(gpu: FakeGPU, kind: str, bits: str | None = None) -> Transformer:
    model = random_model(CONFIGS[kind], gpu.device)
    if bits is None:
        return model
    with replaced(quantized, _check_finite=lambda *_: None):        # it reads every weight: there are none
        return quantized.quantize(model, bits)


def engine_on(model: Transformer, blocks: int = 400, **settings) -> Engine:
    settings = {"max_running": 8, "token_budget": 256} | settings
    per_block = PagedCache.block_bytes(model.config, 16, model.dtype)
    return Engine(model, cache_bytes=blocks * per_block, **settings)


def serve_everything(engine: Engine, seed: int, multiple: int = 1) -> int:
    """Serve a request of each kind, with shared prefixes; the number of steps. multiple: of it are the
    prompts' lengths."""
    rng = random.Random(seed)
    shared = [rng.randrange(512) for _ in range(48)]
    for i, asked in enumerate(EVERYTHING):
        own = [rng.randrange(512) for _ in range(multiple * rng.randrange(1, 60 // multiple))]
        prompt = shared + own if i % 2 else own
        params = {"max_tokens": rng.randrange(4, 8), "ignore_eos": True} | asked
        engine.add(f"{seed}/{i}", prompt, SamplingParams(**params))
    steps = 0
    while engine.unfinished:
        engine.step()
        steps += 1
    return steps
