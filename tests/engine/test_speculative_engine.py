"""Guessing in the engine: several tokens a step, the same as without."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.small_model import MODES, THREE_LAYERS, Script, engine_with, foresee, random_model, serve

from aiinfra import LLM
from aiinfra.engine.engine import Engine
from aiinfra.engine.generate import generate_cached
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.engine.speculative import DraftModel, PromptLookup
from aiinfra.model import Transformer


@pytest.fixture(scope="module")
def small() -> Transformer:
    return random_model(THREE_LAYERS)


def guessing(model: Transformer, proposer, blocks: int = 80, **settings_) -> Engine:
    return engine_with(model, blocks, speculative=proposer, **settings_)


@pytest.fixture(scope="module")
def traffic(small: Transformer) -> tuple[dict, dict]:
    """Requests of all kinds, and the tokens of each of their answers alone."""
    rng, requests = random.Random(0), {}
    shared = [rng.randrange(23) for _ in range(12)]
    kinds = [{"temperature": 0}, {"temperature": 0, "repetition_penalty": 1.2},
             {"temperature": 0.9, "top_p": 0.9},
             {"temperature": 1.3, "n": 2}, {"temperature": 0, "stop_token_ids": [3, 8], "min_tokens": 3}]
    for i in range(10):
        prompt = (shared[:rng.randrange(12)] if i % 2 else []) + [rng.randrange(23)
                                                                  for _ in range(rng.randrange(1, 16))]
        requests[str(i)] = (prompt, SamplingParams(**{"max_tokens": rng.randrange(3, 22), "seed": i,
                                                      **kinds[i % 5]}))
    return requests, {(name, i): [s.token_id for s in generate_cached(small, prompt, params, answer=i)]
                      for name, (prompt, params) in requests.items() for i in range(params.n)}


@pytest.mark.parametrize("guesser", ["lookup", "itself", "mixed"])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_makes_the_same_tokens(mode: str, guesser: str, small: Transformer,
                                          traffic: tuple[dict, dict]) -> None:
    requests, alone = traffic
    rng, texts = random.Random(0), [requests[name][0] + made for (name, _), made in alone.items()]

    def mixed(tokens: list[int]) -> list[int]:                 # some right, some wrong, some none
        [true, *_] = [text[len(tokens):] for text in texts if text[:len(tokens)] == tokens]
        return [t if rng.random() < 0.8 else rng.randrange(23) for t in true[:rng.randrange(6)]]
    proposer = {"lookup": PromptLookup(3, 2, 1), "itself": DraftModel(small, 2),
                "mixed": Script(mixed, 5)}[guesser]
    got, records = serve(guessing(small, proposer, **MODES[mode]), requests)
    assert got == alone
    assert any(accepted for record in records for _, _, accepted in record.guessed)
    assert any(record.preempted for record in records) == mode.startswith("preempted")


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), blocks=st.integers(8, 20), block_size=st.integers(1, 5),
       running=st.integers(1, 4), budget=st.integers(4, 16))
def test_fuzz_with_aborts(seed: int, blocks: int, block_size: int, running: int, budget: int,
                          small: Transformer) -> None:
    """Guesses now right, now wrong, requests coming and going: what is made is what each would make alone."""
    rng, known, made, aborted = random.Random(seed), {}, {}, set()          # known: prompt + answer

    def guess(tokens: list[int]) -> list[int]:
        true = known[tokens[0] + 8 * tokens[1]][len(tokens):]               # a prompt begins with its number
        return [t if rng.random() < 0.8 else 0 for t in true[:rng.randrange(5)]]
    engine = guessing(small, Script(guess), blocks, block_size=block_size, max_running=running,
                      token_budget=budget)
    while len(known) < 10 or engine.unfinished:
        if len(known) < 10 and rng.random() < 0.6:
            number = len(known)
            prompt = [number % 8, number // 8, *(rng.randrange(3) for _ in range(rng.randrange(8)))]
            params = SamplingParams(temperature=0, max_tokens=rng.randrange(1, 10))
            known[number] = prompt + [s.token_id for s in generate_cached(small, prompt, params)]
            if -(-(len(prompt) + params.max_tokens - 1) // block_size) <= blocks:
                engine.add(str(number), prompt, params)
                made[number] = prompt[:]
        if made and rng.random() < 0.05:
            name = rng.choice(list(made))
            aborted |= {name} if engine.abort(str(name)) else set()
        for m in engine.step().made:
            made[int(m.request_id)].append(m.token_id)
    for name, tokens in made.items():
        assert tokens == known[name][:len(tokens)] and (name in aborted or tokens == known[name])
    assert engine.pool.used == 0


def test_a_step_hands_out_several_tokens_in_order(small: Transformer) -> None:
    params = SamplingParams(temperature=0, max_tokens=12)
    alone = [s.token_id for s in generate_cached(small, [1, 2], params)]
    got, records = serve(guessing(small, foresee([1, 2, *alone])), {"a": ([1, 2], params)})
    assert got["a", 0] == alone
    assert [len(record.made) for record in records] == [1, 5, 5, 1]  # prompt; 4 guesses and one more; the end
    assert [record.guessed for record in records] == [(), (("a", 4, 4),), (("a", 4, 4),), ()]
    assert [record.ran for record in records] == [(("a", 0, 2),), (("a", 2, 5),), (("a", 7, 5),),
                                                  (("a", 12, 1),)]
    assert [m.finish_reason for record in records for m in record.made] == [None] * 11 + ["length"]


def test_a_wrong_guess_is_never_known_to_the_prefix_cache(small: Transformer) -> None:
    """A second request whose text is the first one's with its wrong guesses must not find their blocks."""
    params = SamplingParams(temperature=0, max_tokens=16)
    alone = [s.token_id for s in generate_cached(small, [1, 2], params)]
    wrong = Script(lambda tokens: [(t + 1) % 23 for t in alone[len(tokens) - 2:]])
    engine = guessing(small, wrong, block_size=2)
    serve(engine, {"a": ([1, 2], params)})
    for cut in range(1, 12):
        text = [1, 2, *alone[:cut], *[(t + 1) % 23 for t in alone[cut:cut + 4]]]
        assert len(engine.pool.match(text)) <= (2 + cut) // 2
        got, _ = serve(engine, {"b": (text, params)})
        assert got["b", 0] == [s.token_id for s in generate_cached(small, text, params)]


def test_logits_that_are_not_numbers_behind_a_right_guess(small: Transformer, monkeypatch) -> None:
    params = SamplingParams(temperature=0, max_tokens=8)
    alone = [s.token_id for s in generate_cached(small, [1, 2], params)]
    engine = guessing(small, foresee([1, 2, *alone]))
    run = engine.runner.run

    def damaged(plan, newest=None):
        logits = run(plan, newest).clone()
        logits[2:] = torch.nan                                 # rows behind the second guess
        return logits
    monkeypatch.setattr(engine.runner, "run", damaged)
    engine.add("a", [1, 2], params)
    made = [(m.token_id, m.finish_reason) for record in engine.stream() for m in record.made]
    assert made == [(t, None) for t in alone[:3]] + [(None, "error")] and engine.pool.used == 0


def test_logprobs_of_guessed_tokens(small: Transformer) -> None:
    params = SamplingParams(temperature=0.9, seed=2, max_tokens=12, logprobs=2)
    alone = list(generate_cached(small, [1, 2], params))
    engine = guessing(small, foresee([1, 2, *(s.token_id for s in alone)]))
    engine.add("a", [1, 2], params)
    made = [m for record in engine.stream() for m in record.made]
    for m, s in zip(made, alone, strict=True):
        assert m.token_id == s.token_id and list(m.logprobs) == list(s.logprobs)
        assert all(abs(m.logprobs[i].logprob - s.logprobs[i].logprob) < 1e-4 for i in s.logprobs)


def test_an_engine_refuses_what_is_no_proposer(small: Transformer) -> None:
    with pytest.raises(ValueError, match="speculative='ngram' is not known"):
        Engine(small, speculative="ngram")


def test_text_and_stop_strings_on_the_real_model(llm: LLM) -> None:
    """The same LLM with guesses: whole texts, and one cut by a stop string in the middle of a step."""
    fast = LLM.around(Engine(llm.model, cache_bytes=1 << 27, speculative=PromptLookup(6, 3, 1)),
                      llm.tokenizer)
    prompts = ["Count: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10. Again: 1, 2, 3,", "The capital of France is",
               "x = 1\ny = 2\nx = 1\ny ="]
    params = [SamplingParams(temperature=0, max_tokens=24),
              SamplingParams(temperature=0.8, seed=1, max_tokens=24),
              SamplingParams(temperature=0, max_tokens=24)]
    plain = [request.outputs[0] for request in llm.generate(prompts, params)]
    assert [request.outputs[0] for request in fast.generate(prompts, params)] == plain
    right = foresee(llm.tokenizer.encode(prompts[0]) + plain[0].token_ids)          # five tokens a step
    fast.engine = Engine(llm.model, cache_bytes=1 << 27, speculative=right)
    for at in range(6, 12):
        cut = SamplingParams(temperature=0, max_tokens=24, stop=plain[0].text[at:at + 3])
        out = llm.generate(prompts[0], cut)[0].outputs[0]
        assert fast.generate(prompts[0], cut)[0].outputs[0] == out and out.finish_reason == "stop"
    texts = [request.outputs[0].text for request in fast.stream(prompts[0], cut)]
    assert texts == sorted(texts, key=len) and len(texts) < len(out.token_ids)
    assert fast.engine.pool.used == 0
