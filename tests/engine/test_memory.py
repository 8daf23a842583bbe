"""Memory: the pool keeps to its budget, a queue costs little more than its token ids, and nothing is left
behind."""

import gc
import os
import random
import tracemalloc
from pathlib import Path

import pytest
import torch

from aiinfra.engine.engine import Engine
from aiinfra.engine.runner import PagedCache
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.model import ModelConfig, Transformer

TINY = ModelConfig(vocab_size=600, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                   num_key_value_heads=1,
                   head_dim=4, intermediate_size=8, max_position_embeddings=2048)


@pytest.fixture(scope="module")
def tiny() -> Transformer:
    torch.manual_seed(1)
    return Transformer(TINY).eval().requires_grad_(False)


def prompt_of(rng: random.Random, length: int) -> list[int]:
    return [rng.randrange(TINY.vocab_size) for _ in range(length)]


def traced_bytes() -> int:
    """What Python has in use, and tracemalloc sees (tensors are outside)."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.parametrize("budget", [1, 1.5, 7.99, 33])
def test_the_pool_never_exceeds_its_budget(budget: float, tiny: Transformer) -> None:
    per_block = PagedCache.block_bytes(TINY, 16, torch.float32)
    cache_bytes = int(budget * per_block)
    engine = Engine(tiny, cache_bytes=cache_bytes)
    cache, before = engine.runner.cache, (engine.runner.cache.k, engine.runner.cache.v)
    taken = cache.k.nbytes + cache.v.nbytes
    assert cache_bytes - per_block < taken <= cache_bytes, "all whole blocks that fit, and no more"
    rng = random.Random(0)
    for i in range(20):
        length = rng.randint(1, int(budget) * 16)
        params = SamplingParams(temperature=0, max_tokens=rng.randint(1, int(budget) * 16 - length + 1))
        engine.add(str(i), prompt_of(rng, length), params)
    for record in engine.stream():
        assert record.free_blocks + record.cached_blocks + record.used_blocks == int(budget)
        assert max(last for _, first, count in record.ran for last in [first + count]) <= int(budget) * 16
    assert engine.runner.cache is cache, "the cache it began with"
    assert cache.k is before[0] and cache.v is before[1], "the tensors it began with"


@pytest.mark.parametrize("length", [1, 1000])
def test_a_queued_request_costs_little_more_than_its_ids(length: int, tiny: Transformer) -> None:
    """At most 2 KB a request beside its prompt's ids, which are kept once."""
    engine, params, rng = Engine(tiny, cache_bytes=1 << 20), SamplingParams(max_tokens=4), random.Random(0)
    prompts = [prompt_of(rng, length) for _ in range(1000)]
    pointer = 8    # what a list needs for each id; the numbers are shared
    resident = resident_bytes()
    tracemalloc.start()
    try:
        before = traced_bytes()
        for i, prompt in enumerate(prompts):
            engine.add(str(i), prompt, params)
        grown = (traced_bytes() - before) / len(prompts)
    finally:
        tracemalloc.stop()
    assert grown <= pointer * length + 2048
    allowed = 1000 * (pointer * length + 2048) + (8 << 20)
    assert resident_bytes() - resident <= allowed, "nor outside of Python's sight"
    assert engine.pool.used == 0 and engine.runner.cache.k.nbytes + engine.runner.cache.v.nbytes <= 1 << 20


@pytest.mark.program
def test_ten_thousand_requests_leave_nothing_behind(tiny: Transformer) -> None:
    """Ten thousand warm up (PyTorch's own caches, a pool full of known blocks, what tracemalloc sees anew
    of objects that are always there: flat from some 16,000 on); ten thousand more must add nothing, not 4
    bytes each."""
    engine, rng = Engine(tiny, cache_bytes=64 * PagedCache.block_bytes(TINY, 16, torch.float32),
                         max_running=64), random.Random(0)

    def serve(requests: int) -> None:
        for i in range(requests):
            sampled = SamplingParams(temperature=i % 2, max_tokens=1 + i % 2, seed=i)
            engine.add(str(i), prompt_of(rng, rng.randint(1, 20)), sampled)
            if i % 64 == 63:
                for _ in engine.stream():
                    pass
        for _ in engine.stream():
            pass
    serve(1000)
    tracemalloc.start()
    try:
        serve(9000)
        python, resident = traced_bytes(), resident_bytes()
        serve(10_000)
        assert traced_bytes() - python < 4 * 10_000
        assert resident_bytes() - resident < 8 << 20
    finally:
        tracemalloc.stop()
    assert engine.pool.used == 0 and engine.pool.free + engine.pool.cached == 64
    assert not engine.unfinished and not engine.scheduler.running and not engine.scheduler.waiting
