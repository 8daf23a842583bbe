"""Every mode, and every way of being interrupted, makes the tokens that a request alone would make."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aiinfra.engine.engine import Engine
from aiinfra.engine.generate import generate_cached
from aiinfra.engine.runner import PagedCache
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.model import ModelConfig, Transformer

SMALL = ModelConfig(vocab_size=53, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                    head_dim=8, intermediate_size=48, max_position_embeddings=128)


@pytest.fixture(scope="module")
def small() -> Transformer:
    torch.manual_seed(1)
    model = Transformer(SMALL).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.35)               # sharp logits: no near-ties
    return model


def engine_with(model: Transformer, blocks: int, block_size: int = 4, **settings_) -> Engine:
    per_block = PagedCache.block_bytes(model.config, block_size, model.dtype)
    return Engine(model, cache_bytes=blocks * per_block, block_size=block_size, **settings_)


def run(engine: Engine, requests: dict[str, tuple[list[int], SamplingParams]]) -> dict[str, list[int]]:
    for name, (prompt, params) in requests.items():
        engine.add(name, prompt, params)
    made = {name: [] for name in requests}
    while engine.unfinished:
        for m in engine.step().made:
            made[m.request_id].append(m.token_id)
    assert engine.pool.used == 0
    return made


def alone(model: Transformer, prompt: list[int], params: SamplingParams) -> list[int]:
    return [s.token_id for s in generate_cached(model, prompt, params)]


MODES = {
    "one": {"mode": "one"}, "static": {"mode": "static", "max_running": 4}, "continuous": {"max_running": 6},
    "chunks of 3": {"token_budget": 3, "max_running": 3}, "chunks of 7": {"token_budget": 7, "max_running": 5},
    "no prefix cache": {"prefix_caching": False}, "preempted": {"blocks": 14, "max_running": 6},
    "preempted, chunked, no prefix cache": {"blocks": 14, "max_running": 6, "token_budget": 6, "prefix_caching": False},
    "blocks of 1": {"block_size": 1, "blocks": 200}, "blocks of 16": {"block_size": 16},
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_makes_the_same_tokens(mode: str, small: Transformer) -> None:
    rng = random.Random(0)
    shared = [rng.randrange(53) for _ in range(12)]
    requests = {}
    for i in range(16):
        prompt = (shared[:rng.randrange(12)] if i % 2 else []) + [rng.randrange(53) for _ in range(rng.randrange(1, 20))]
        sampled = {"temperature": 0.9, "top_p": 0.9, "seed": i} if i % 3 == 0 else {"temperature": 0}
        requests[str(i)] = (prompt, SamplingParams(max_tokens=rng.randrange(1, 20), **sampled))
    engine = engine_with(small, **{"blocks": 60, **MODES[mode]})
    got = run(engine, requests)
    for name, (prompt, params) in requests.items():
        assert got[name] == alone(small, prompt, params), name


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_fuzz_with_aborts(data, small: Transformer) -> None:
    engine = engine_with(small, data.draw(st.integers(8, 30)), data.draw(st.integers(1, 5)), max_running=data.draw(st.integers(1, 5)),
                         token_budget=data.draw(st.integers(5, 20)))
    prompts, made, aborted = {}, {}, set()
    for step in range(25):
        for _ in range(data.draw(st.integers(0, 2))):
            name = str(len(prompts))
            prompt = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=9))
            params = SamplingParams(temperature=0, max_tokens=data.draw(st.integers(1, 6)))
            try:
                engine.add(name, prompt, params)
            except ValueError:
                continue
            prompts[name], made[name] = (prompt, params), []
        if made and data.draw(st.booleans()):
            name = data.draw(st.sampled_from(sorted(made)))
            if engine.abort(name):
                aborted.add(name)
        for m in engine.step().made:
            made[m.request_id].append(m.token_id)
    while engine.unfinished:
        for m in engine.step().made:
            made[m.request_id].append(m.token_id)
    for name, (prompt, params) in prompts.items():
        expected = alone(small, prompt, params)
        assert made[name] == expected[:len(made[name])] and (name in aborted or made[name] == expected)
    assert engine.pool.used == 0


def test_records_say_what_happened(small: Transformer) -> None:
    engine = engine_with(small, 40, token_budget=8, max_running=2)
    engine.add("a", list(range(10)), SamplingParams(temperature=0, max_tokens=2))
    first, second = engine.step(), engine.step()
    assert first.ran == (("a", 0, 8),) and first.made == () and first.admitted == ("a",)
    assert second.ran == (("a", 8, 2),) and second.made[0].request_id == "a"
    assert first.free_blocks + first.cached_blocks + first.used_blocks == 40
    assert first.plan_seconds >= 0 and first.model_seconds > 0


def test_logits_that_are_not_numbers_fail_one_request(small: Transformer, monkeypatch) -> None:
    engine = engine_with(small, 40)
    for name in ("good", "bad"):
        engine.add(name, [1, 2, 3], SamplingParams(temperature=0, max_tokens=3))
    run_step = engine.runner.run

    def damaged(plan):
        logits = run_step(plan).clone()
        for row, work in enumerate(w for w in plan.work if w.last):
            if work.request.id == "bad":
                logits[row] = torch.nan
        return logits
    monkeypatch.setattr(engine.runner, "run", damaged)
    reasons = {}
    while engine.unfinished:
        reasons.update({m.request_id: m.finish_reason for m in engine.step().made})
    assert reasons == {"good": "length", "bad": "error"} and engine.pool.used == 0


def test_ids_and_aborts(small: Transformer) -> None:
    engine = engine_with(small, 40)
    engine.add("a", [1], SamplingParams(max_tokens=2))
    with pytest.raises(ValueError, match="request id 'a' is in use"):
        engine.add("a", [1], SamplingParams(max_tokens=2))
    assert engine.abort("a") is True and engine.abort("a") is False and engine.abort("never") is False
    assert engine.step().ran == ()


@pytest.mark.parametrize("settings_, message", [
    ({"cache_bytes": 10}, "cache_bytes=10; one block of 16 tokens is"), ({"block_size": 0}, "block_size=0"),
])
def test_a_cache_of_nothing(settings_: dict, message: str, small: Transformer) -> None:
    with pytest.raises(ValueError, match=message):
        Engine(small, **settings_)


def test_prompt_equal_to_and_above_the_pool(small: Transformer) -> None:
    engine = engine_with(small, 4, 4)
    assert len(run(engine, {"fits": (list(range(16)), SamplingParams(temperature=0, max_tokens=1))})["fits"]) == 1
    with pytest.raises(ValueError, match="may grow to 17 tokens = 5 blocks of 4; the cache has 4"):
        engine.add("above", list(range(17)), SamplingParams(max_tokens=1))


@pytest.mark.parametrize("prompt, message", [([], "the prompt is empty"), ([53], "token id 53 is outside the vocabulary of 53")])
def test_a_refused_request_leaves_no_trace(prompt: list[int], message: str, small: Transformer) -> None:
    engine = engine_with(small, 20)
    with pytest.raises(ValueError, match=message):
        engine.add("bad", prompt, SamplingParams(max_tokens=2))
    with pytest.raises(ValueError, match=message):
        list(generate_cached(small, prompt, SamplingParams(max_tokens=2)))
    assert engine.unfinished == 0 and not engine.scheduler.waiting
    assert len(run(engine, {"good": ([1], SamplingParams(temperature=0, max_tokens=2))})["good"]) == 2


def test_a_second_call_continues_where_the_cache_ends(small: Transformer) -> None:
    from aiinfra.model import KVCache
    tokens, cache = torch.randint(0, 53, (1, 9)), KVCache(SMALL, 9)
    with torch.inference_mode():
        pieces = torch.cat([small(tokens[:, :4], kv=cache), small(tokens[:, 4:], kv=cache)], 1)
        torch.testing.assert_close(pieces, small(tokens), rtol=1e-4, atol=1e-4)
