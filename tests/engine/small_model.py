"""A small random model with sharp logits, and what the engine's tests do with it."""

import torch

from aiinfra.engine.engine import Engine
from aiinfra.engine.generate import generate_cached
from aiinfra.engine.record import StepRecord
from aiinfra.engine.request import Request
from aiinfra.engine.runner import PagedCache
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.engine.scheduler import Work
from aiinfra.model import ModelConfig, Transformer

SMALL = ModelConfig(vocab_size=53, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                    num_key_value_heads=2,
                    head_dim=8, intermediate_size=48, max_position_embeddings=128)

THREE_LAYERS = ModelConfig(vocab_size=23, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
                           num_key_value_heads=2,
                           head_dim=8, intermediate_size=48, max_position_embeddings=96)

# Settings of an engine, each of which makes requests meet in another way.
MODES = {
    "one": {"mode": "one"}, "static": {"mode": "static", "max_running": 4}, "continuous": {"max_running": 6},
    "chunks of 3": {"token_budget": 3, "max_running": 2},
    "chunks of 7": {"token_budget": 7, "max_running": 5},
    "no prefix cache": {"prefix_caching": False}, "preempted": {"blocks": 14, "max_running": 6},
    "preempted, chunked, no prefix cache": {"blocks": 14, "max_running": 6, "token_budget": 8,
                                            "prefix_caching": False},
    "blocks of 1": {"block_size": 1, "blocks": 200}, "blocks of 16": {"block_size": 16},
}


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


def serve(engine: Engine,
          requests: dict[str, tuple[list[int], SamplingParams]]) -> tuple[dict, list[StepRecord]]:
    """The tokens of every (request, answer), and the records, which must add up."""
    for name, (prompt, params) in requests.items():
        engine.add(name, prompt, params)
    made, records = {(name, i): [] for name, (_, params) in requests.items() for i in range(params.n)}, []
    for record in engine.stream():
        records.append(record)
        for m in record.made:
            made[m.request_id, m.index].append(m.token_id)
        assert len(engine.scheduler.running) <= engine.scheduler.max_running
        assert record.free_blocks + record.cached_blocks + record.used_blocks == engine.pool.total
        ran = {name: count for name, _, count in record.ran}
        assert sum(ran.values()) <= engine.scheduler.token_budget
        for name, drafted, accepted in record.guessed:
            assert 0 <= accepted <= drafted == ran[name] - 1
    assert engine.pool.used == 0 and engine.idle
    engine.pool.check()
    return made, records


def cache_for(model: Transformer, blocks: int) -> PagedCache:
    return PagedCache(model.config, blocks, 4, model.dtype, model.device)


def decoding(lengths: list[int]) -> list[Work]:
    """One request a length, in blocks of 4: that many tokens already in blocks of its own and one to run."""
    work, block = [], 0
    for i, n in enumerate(lengths):
        request = Request(str(i), [(7 * i + j) % 53 for j in range(n + 1)], max_tokens=1)
        request.computed, count = n, n // 4 + 1
        request.blocks = list(range(block, block + count))
        block += count
        work.append(Work(request, n, 1))
    return work


class Script:
    """A proposer that guesses what it was told to, right or wrong; remembers what it was asked."""

    def __init__(self, guess, k: int = 4) -> None:
        self.guess, self.k, self.asked = guess, k, []

    def propose(self, tokens: list[int], k: int) -> list[int]:
        self.asked.append((len(tokens), k))
        return self.guess(tokens)[:k]

    def fresh(self) -> "Script":
        return self


def foresee(known: list[int]) -> Script:
    """Guesses right for ever, or until `known` ends."""
    return Script(lambda tokens: known[len(tokens):])
