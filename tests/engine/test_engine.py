"""Every mode, and every way of being interrupted, makes the tokens that a request alone would make."""

import random
import tracemalloc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.small_model import MODES, alone, engine_with, serve

from aiinfra.engine.generate import generate_cached
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.model import Transformer

@pytest.mark.parametrize("mode", MODES)
def test_every_mode_makes_the_same_tokens(mode: str, small: Transformer) -> None:
    rng = random.Random(0)
    shared = [rng.randrange(53) for _ in range(12)]
    requests = {}
    for i in range(16):
        begin = shared[:rng.randrange(12)] if i % 2 else []
        prompt = begin + [rng.randrange(53) for _ in range(rng.randrange(1, 20))]
        sampled = [{"temperature": 0.9, "top_p": 0.9, "seed": i, "n": 1 + i // 3}, {"temperature": 0},
                   {"temperature": 1.2, "min_p": 0.02, "top_k": 20, "repetition_penalty": 1.3, "seed": i,
                    "n": 1 + i % 2}][i % 3]
        requests[str(i)] = (prompt, SamplingParams(max_tokens=rng.randrange(1, 20), **sampled))
    engine = engine_with(small, **{"blocks": 60, **MODES[mode]})
    got, _ = serve(engine, requests)
    assert got == {(name, i): alone(small, prompt, params, i) for name, (prompt, params) in requests.items()
                   for i in range(params.n)}


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_fuzz_with_aborts(data, small: Transformer) -> None:
    engine = engine_with(small, data.draw(st.integers(8, 30)), data.draw(st.integers(1, 5)),
                         max_running=data.draw(st.integers(1, 5)),
                         token_budget=data.draw(st.integers(5, 20)))
    prompts, made, aborted = {}, {}, set()
    for step in range(15):
        for _ in range(data.draw(st.integers(0, 2))):
            name = str(len(prompts))
            prompt = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=9))
            n = data.draw(st.integers(1, 3))
            params = SamplingParams(temperature=0 if n == 1 else 1, n=n, seed=len(prompts),
                                    max_tokens=data.draw(st.integers(1, 6)))
            try:
                engine.add(name, prompt, params, priority=data.draw(st.integers(0, 2)))
            except ValueError:
                continue
            prompts[name] = (prompt, params)
            made.update({(name, i): [] for i in range(n)})
        if made and data.draw(st.booleans()):
            name, index = data.draw(st.sampled_from(sorted(made)))
            whole = data.draw(st.booleans())
            if engine.abort(name, None if whole else index):
                aborted |= {key for key in made if key[0] == name and (whole or key[1] == index)}
        for m in engine.step().made:
            made[m.request_id, m.index].append(m.token_id)
    for record in engine.stream():
        for m in record.made:
            made[m.request_id, m.index].append(m.token_id)
    for (name, index), tokens in made.items():
        expected = alone(small, *prompts[name], index)
        assert tokens == expected[:len(tokens)] and ((name, index) in aborted or tokens == expected)
    assert engine.pool.used == 0 and engine.unfinished == 0 and engine.idle


def test_logits_that_are_not_numbers_fail_one_request(small: Transformer, monkeypatch) -> None:
    engine = engine_with(small, 40)
    for name in ("good", "bad"):
        engine.add(name, [1, 2, 3], SamplingParams(temperature=0, max_tokens=3))
    run_step = engine.runner.run

    def damaged(plan, newest=None):
        logits = run_step(plan, newest).clone()
        for row, work in enumerate(w for w in plan.work if w.last):
            if work.request.id == "bad":
                logits[row] = torch.nan
        return logits
    monkeypatch.setattr(engine.runner, "run", damaged)
    reasons = {}
    while engine.unfinished:
        reasons.update({m.request_id: m.finish_reason for m in engine.step().made})
    assert reasons == {"good": "length", "bad": "error"} and engine.pool.used == 0
    engine.add("bad", [1, 2, 3], SamplingParams(n=3, seed=1, max_tokens=3))    # the id is free again
    made = [(m.index, m.token_id, m.finish_reason) for r in engine.stream() for m in r.made]
    assert made == [(i, None, "error") for i in range(3)]
    assert engine.pool.used == 0


def test_ids_and_aborts(small: Transformer) -> None:
    engine = engine_with(small, 40)
    engine.add("a", [1], SamplingParams(max_tokens=2))
    with pytest.raises(ValueError, match="request id 'a' is in use"):
        engine.add("a", [1], SamplingParams(max_tokens=2))
    assert engine.abort("a") is True and engine.abort("a") is False and engine.abort("never") is False
    assert engine.step().ran == ()


def test_requests_come_and_go_while_streaming(small: Transformer) -> None:
    engine = engine_with(small, 40)
    params = SamplingParams(temperature=0, max_tokens=5)
    engine.add("a", [1, 2, 3], params)
    made, dropped = {"a": [], "b": [], "c": []}, None
    for record in engine.stream():
        for m in record.made:
            made[m.request_id].append(m.token_id)
        if len(made["a"]) == 2 and not made["b"]:
            engine.add("b", [4, 5], params)
            engine.add("c", [6], params)
        if len(made["c"]) == 1 and dropped is None:
            dropped = engine.abort("c")
    assert made["a"] == alone(small, [1, 2, 3], params) and made["b"] == alone(small, [4, 5], params)
    assert made["c"] == alone(small, [6], params)[:1] and dropped
    assert list(engine.stream()) == []


def test_a_seed_decides_alone_and_among_others(small: Transformer) -> None:
    """The same request in eight different companies."""
    rng = random.Random(3)
    params, prompt = SamplingParams(temperature=1.3, top_p=0.95, seed=11, max_tokens=15), [9, 8, 7]
    expected = alone(small, prompt, params)
    for company in range(8):
        others = {str(i): ([rng.randrange(53) for _ in range(rng.randrange(1, 15))],
                           SamplingParams(temperature=rng.choice([0, 1]), top_k=rng.choice([0, 4]),
                                          min_p=rng.choice([0, 0.1]),
                                          max_tokens=rng.randrange(1, 20))) for i in range(company)}
        got, _ = serve(engine_with(small, 100), {**others, "mine": (prompt, params)})
        assert got["mine", 0] == expected


def test_queued_requests_cost_their_ids_and_little_more(small: Transformer) -> None:
    engine = engine_with(small, 40, max_running=2)
    params = SamplingParams(repetition_penalty=1.2, seed=1, max_tokens=2)
    tracemalloc.start()
    for i in range(1000):
        engine.add(str(i), [1 + i % 50] * 60, params)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 1000 * (2 * 60 * 8 + 2500)    # prompt and tokens, 8 bytes an id; and the objects


def test_prompt_equal_to_and_above_the_pool(small: Transformer) -> None:
    engine = engine_with(small, 4, 4)
    made, _ = serve(engine, {"fits": (list(range(16)), SamplingParams(temperature=0, max_tokens=1))})
    assert len(made["fits", 0]) == 1
    assert engine.abort("fits") is False                                 # it has finished
    with pytest.raises(ValueError, match="may grow to 17 tokens = 5 blocks of 4; the cache has 4"):
        engine.add("above", list(range(17)), SamplingParams(max_tokens=1))


@pytest.mark.parametrize("prompt, message", [([], "the prompt is empty"),
                                             ([53], "token id 53 is outside the vocabulary of 53")])
def test_a_refused_request_leaves_no_trace(prompt: list[int], message: str, small: Transformer) -> None:
    engine = engine_with(small, 20)
    with pytest.raises(ValueError, match=message):
        engine.add("bad", prompt, SamplingParams(max_tokens=2))
    with pytest.raises(ValueError, match=message):
        list(generate_cached(small, prompt, SamplingParams(max_tokens=2)))
    assert engine.unfinished == 0 and not engine.scheduler.waiting
    assert len(serve(engine, {"good": ([1], SamplingParams(temperature=0, max_tokens=2))})[0]["good", 0]) == 2


@pytest.mark.parametrize("prompt, priority, message", [
    ([1.0, 2.0], 0, "token id 1.0 is outside the vocabulary"), ([None], 0, "token id None"),
    ([True], 0, "token id True"),
    ([1], "high", "priority='high'; it must be a whole number"),
])
def test_what_would_break_every_step_is_refused_at_the_door(prompt, priority, message: str, small) -> None:
    engine = engine_with(small, blocks=9)
    with pytest.raises(ValueError, match=message):
        engine.add("a", prompt, SamplingParams(temperature=0, max_tokens=9), priority=priority)
    assert engine.unfinished == 0


def test_longer_than_the_context_is_refused(small) -> None:
    engine = engine_with(small, blocks=99)
    with pytest.raises(ValueError, match="may grow to 129 tokens; the context is 128"):
        engine.add("a", [1] * 120, SamplingParams(temperature=0, max_tokens=9))


def test_a_static_batch_is_chosen_when_the_bus_is_empty(small) -> None:
    """Eight prompts ride together although reading them takes several steps."""
    engine = engine_with(small, blocks=200, mode="static", max_running=8, token_budget=32)
    for i in range(9):
        engine.add(str(i), [i] * 20, SamplingParams(temperature=0, max_tokens=9))
    most = 0
    while engine.unfinished > 1:
        engine.step()
        most = max(most, len(engine.scheduler.running))
        riding = [r.id for r in engine.scheduler.running]
        assert most < 8 or "8" not in riding or len(riding) == 1
    assert most == 8
