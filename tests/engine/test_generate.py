"""The two loops without an engine: the same tokens, and that remembering changes nothing but the bill."""

import pytest
import torch
from tests.engine.small_model import SMALL, alone

from aiinfra import LLM, SamplingParams
from aiinfra.engine.generate import generate_cached, generate_naive
from aiinfra.model import KVCache, Transformer


@pytest.mark.parametrize("prompt", ["The capital of France is", "x", "def add(a, b):\n    return"])
@pytest.mark.parametrize("settings", [{"temperature": 0}, {"temperature": 0.8, "top_p": 0.9, "seed": 7}])
def test_naive_and_cached_make_the_same_tokens(prompt: str, settings: dict, llm: LLM) -> None:
    ids = llm.tokenizer.encode(prompt)
    params = SamplingParams(max_tokens=24, ignore_eos=True, **settings)
    naive = list(generate_naive(llm.model, ids, params))
    cached = list(generate_cached(llm.model, ids, params))
    assert [s.token_id for s in naive] == [s.token_id for s in cached]
    assert [s.tokens_run for s in naive] == list(range(len(ids), len(ids) + 24))
    assert [s.tokens_run for s in cached] == [len(ids)] + [1] * 23


def test_cost_per_token_grows_only_without_a_cache(llm: LLM) -> None:
    ids = llm.tokenizer.encode("word " * 20)
    params = SamplingParams(temperature=0, max_tokens=100, ignore_eos=True)

    def growth(generator) -> float:
        seconds = [step.step_seconds for step in generator(llm.model, ids, params)][1:]
        return min(seconds[-30:]) / min(seconds[:30])    # the least of thirty: interruptions only add
    assert growth(generate_naive) > 1.3          # 50 tokens in the first third, 120 in the last
    assert growth(generate_cached) < 1.3


def test_a_second_call_continues_where_the_cache_ends(small: Transformer) -> None:
    tokens, cache = torch.randint(0, 53, (1, 9)), KVCache(SMALL, 9)
    with torch.inference_mode():
        pieces = torch.cat([small(tokens[:, :4], kv=cache), small(tokens[:, 4:], kv=cache)], 1)
        torch.testing.assert_close(pieces, small(tokens), rtol=1e-4, atol=1e-4)


def test_stop_ids_beyond_the_vocabulary(small) -> None:
    params = SamplingParams(temperature=0, max_tokens=4, min_tokens=2, stop_token_ids=[999])
    assert len(alone(small, [1, 2], params)) == 4
