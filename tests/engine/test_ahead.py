"""One step ahead: the next step is asked for before this one's tokens are read, and nobody's tokens
change."""

import random
from dataclasses import replace

import pytest
import torch
from tests.engine.small_model import MODES, alone, engine_with, serve

from aiinfra.engine.engine import Engine
from aiinfra.engine.request import UNKNOWN
from aiinfra.engine.sampler import Draws
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.model import Transformer

GREEDY = SamplingParams(temperature=0, max_tokens=9)


def traffic(seed: int, penalties: bool = False) -> dict[str, tuple[list[int], SamplingParams]]:
    """Requests of every kind: shared beginnings, n answers, stops that are drawn now and then,
    log-probabilities."""
    rng = random.Random(seed)
    begin, requests = [rng.randrange(53) for _ in range(9)], {}
    for i in range(14):
        temperature, most = rng.choice([0, 1, 1.5]), rng.randint(1, 12)
        params = SamplingParams(temperature=temperature, seed=i, max_tokens=most,
                                n=rng.choice([1, 1, 3]) if temperature else 1,
                                stop_token_ids=rng.sample(range(53), 4),
                                min_tokens=min(most, rng.choice([0, 0, 3])),
                                logprobs=rng.choice([None, 2]), top_p=rng.choice([1, 0.9]))
        if penalties and i % 5 == 0:
            params = replace(params, repetition_penalty=1.3, max_tokens=4, min_tokens=0)
        prompt = begin[:rng.randint(0, 9)] + [rng.randrange(53) for _ in range(rng.randint(1, 9))]
        requests[f"r{i}"] = (prompt, params)
    return requests


def ahead(engine: Engine) -> list[bool]:
    """Filled with, for every step to come, whether the next one was asked for before it was read."""
    foresee, seen = engine.ahead.foresee, []
    engine.ahead.foresee = lambda flight: seen.append(foresee(flight)) or seen[-1]
    return seen


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("penalties", [False, True])
def test_the_tokens_are_those_of_each_alone(mode: str, penalties: bool, small: Transformer) -> None:
    requests = traffic(len(mode), penalties)
    expected = {(name, i): alone(small, prompt, params, i) for name, (prompt, params) in requests.items()
                for i in range(params.n)}
    engine = engine_with(small, **{"blocks": 60, "overlap": True} | MODES[mode])
    seen = ahead(engine)
    got, records = serve(engine, requests)
    assert got == expected
    assert any(seen) if penalties else sum(seen) > 0.8 * len(seen)
    serial = {m.request_id: m.logprobs for r in records for m in r.made if m.index == 0}
    assert all((serial[name] is None) == (params.logprobs is None) for name, (_, params) in requests.items())


@pytest.mark.parametrize("seed", range(20))
def test_requests_come_and_go_meanwhile(seed: int, small: Transformer) -> None:
    rng = random.Random(seed)
    engine = engine_with(small, rng.choice([16, 40]), overlap=True, max_running=rng.choice([2, 5]),
                         cuda_graphs=bool(seed % 2))
    todo, made, aborted = list(traffic(seed).items()), {}, set()
    while todo or engine.unfinished:
        if todo and rng.random() < 0.4:
            name, (prompt, params) = todo.pop()
            engine.add(name, prompt, params)
            made |= {(name, i): [] for i in range(params.n)}
        if made and rng.random() < 0.1 and engine.abort(name := rng.choice(list(made))[0]):
            aborted.add(name)
        for m in engine.step().made:
            assert m.request_id not in aborted
            made[m.request_id, m.index].append(m.token_id)
        known = [*engine.scheduler.waiting, *engine.scheduler.running]
        assert all(UNKNOWN not in request.tokens for request in known)
        assert engine.pool.free + engine.pool.cached + engine.pool.used == engine.pool.total
        engine.pool.check()
    assert engine.pool.used == 0 and engine.idle
    for (name, i), tokens in made.items():
        prompt, params = traffic(seed)[name]
        expected = alone(small, prompt, params, i)
        assert tokens == (expected[:len(tokens)] if name in aborted else expected)


def test_the_model_is_asked_before_the_tokens_are_read(small: Transformer, monkeypatch) -> None:
    engine, events = engine_with(small, 40, overlap=True), []
    run, read = engine.runner.run, Draws.read
    monkeypatch.setattr(engine.runner, "run", lambda *args: (events.append("run"), run(*args))[1])
    monkeypatch.setattr(Draws, "read", lambda draws: (events.append("read"), read(draws))[1])
    serve(engine, {"a": ([1, 2, 3], GREEDY)})
    assert events == ["run", *["run", "read"] * 8, "read"]    # no tenth step: the length is known


def test_who_has_a_penalty_or_guesses_is_not_run_ahead(small: Transformer) -> None:
    for settings, params in (({}, replace(GREEDY, repetition_penalty=1.2)),
                             ({"speculative": "prompt_lookup"}, GREEDY)):
        engine = engine_with(small, 40, overlap=True, **settings)
        seen = ahead(engine)
        assert serve(engine, {"a": ([1, 2, 3], params)})[0]["a", 0] == alone(small, [1, 2, 3], params)
        assert len(seen) > 4 and not any(seen)


@pytest.mark.parametrize("when", [0, 4, 8])    # its first token, a later one, its last
def test_logits_that_are_not_numbers(when: int, small: Transformer, monkeypatch) -> None:
    engine = engine_with(small, 40, overlap=True)
    run, prompt = engine.runner.run, list(range(11))

    def damaged(plan, newest=None):
        logits = run(plan, newest).clone()
        for row, work in enumerate(w for w in plan.work if w.last):
            if work.request.id == "bad" and work.request.made == when:
                logits[row] = torch.nan
        return logits
    monkeypatch.setattr(engine.runner, "run", damaged)
    for name in ("good", "bad"):
        engine.add(name, [*prompt, ord(name[0]) % 53], GREEDY)
    made = [(m.request_id, m.token_id) for record in engine.stream() for m in record.made]
    assert [t for name, t in made if name == "good"] == alone(small, [*prompt, ord("g") % 53], GREEDY)
    sound = alone(small, [*prompt, ord("b") % 53], GREEDY)[:when]
    assert [t for name, t in made if name == "bad"] == [*sound, None]
    assert engine.pool.used == 0 and not engine.unfinished


def test_nobody_finds_the_blocks_of_a_request_that_failed(small: Transformer, monkeypatch) -> None:
    engine, prompt = engine_with(small, 40, overlap=True), list(range(14))
    with monkeypatch.context() as broken:
        broken.setattr(small.layers[0].attention_norm, "eps", float("nan"))
        engine.add("a", prompt, replace(GREEDY, max_tokens=1))
        assert [m.finish_reason for record in engine.stream() for m in record.made] == ["error"]
    assert engine.pool.cached == 0


def test_nobody_is_admitted_onto_the_blocks_of_a_step_that_may_have_failed(
        small: Transformer, monkeypatch) -> None:
    engine = engine_with(small, 40, overlap=True, token_budget=14, max_running=2)
    prompt, steps = list(range(14)), []
    run, norm = engine.runner.run, small.layers[0].attention_norm

    def broken_once(plan, newest=None):
        steps.append(plan)
        with monkeypatch.context() as broken:
            if len(steps) == 1:
                broken.setattr(norm, "eps", float("nan"))
            return run(plan, newest)
    monkeypatch.setattr(engine.runner, "run", broken_once)
    for name in ("bad", "other"):
        engine.add(name, prompt, GREEDY)
    made = [(m.request_id, m.token_id) for record in engine.stream() for m in record.made]
    assert [t for name, t in made if name == "bad"] == [None]
    assert [t for name, t in made if name == "other"] == alone(small, prompt, GREEDY)


def test_a_request_that_failed_and_was_pushed_out_is_forgotten(small: Transformer, monkeypatch) -> None:
    engine, prompt, steps = engine_with(small, 4, overlap=True), list(range(9)), []
    run = engine.runner.run

    def damaged_once(plan, newest=None):    # keys and logits of one request, as an overflow would
        steps.append(plan)
        logits = run(plan, newest)
        bad = [row for row, w in enumerate(w for w in plan.work if w.last) if w.request.id == "bad"]
        if len(steps) > 1 or not bad:
            return logits
        [request] = [w.request for w in plan.work if w.request.id == "bad"]
        engine.runner.cache.v[:, request.blocks] = torch.nan
        return logits.index_fill(0, torch.tensor(bad), torch.nan)
    monkeypatch.setattr(engine.runner, "run", damaged_once)
    short, longer = replace(GREEDY, max_tokens=2), replace(GREEDY, max_tokens=6)
    assert serve(engine, {"first": ([9, 9, 9, 9], short), "bad": (prompt, longer)})[0]["bad", 0] == [None]
    for name in ("second", "third"):
        assert serve(engine, {name: (prompt, longer)})[0][name, 0] == alone(small, prompt, longer)
