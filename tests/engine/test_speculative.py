"""Guessing ahead changes the number of passes and nothing else: not a token, not a probability, not a stop."""

import copy
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_model import engine_with, random_model

from aiinfra import LLM
from aiinfra.engine.engine import Engine, StepRecord
from aiinfra.engine.generate import generate_cached, generate_naive
from aiinfra.engine.sampler import Sampler, choose, probabilities
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.engine.speculative import (DraftModel, PromptLookup, SpeculativeStep, accept, as_proposer, first_layers,
                                        generate_speculative, rows_ahead)
from aiinfra.model import ModelConfig, Transformer

SMALL = ModelConfig(vocab_size=23, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                    head_dim=8, intermediate_size=48, max_position_embeddings=96)


@pytest.fixture(scope="module")
def small() -> Transformer:
    return random_model(SMALL)


class Script:
    """Guesses what it was told to, right or wrong; remembers what it was asked."""

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


def tokens_of(steps: list[SpeculativeStep]) -> list[int]:
    return [token for step in steps for token in step.token_ids]


# Proposers

@pytest.mark.parametrize("tokens, k, expected", [
    ([1, 2, 3, 4, 1, 2], 3, [3, 4, 1]),                        # what followed
    ([1, 2, 3, 9, 1, 2, 4, 9, 1, 2], 2, [4, 9]),               # at the latest place
    ([5, 1, 2, 7, 8, 1, 2, 9, 5, 1, 2], 2, [7, 8]),            # a longer ending counts more than a later place
    ([1, 2, 3, 4], 3, []), ([1], 3, []), ([], 3, []), ([7, 8, 1, 7], 3, []),
    ([6, 6, 6], 4, [6, 6, 6, 6]), ([1, 2, 1, 2, 1, 2], 5, [1, 2, 1, 2, 1]),      # goes on repeating
    ([1, 2, 3, 1, 2], 0, []),
])
def test_prompt_lookup(tokens: list[int], k: int, expected: list[int]) -> None:
    assert PromptLookup().propose(tokens, k) == expected


def by_scan(tokens: list[int], k: int, longest: int, shortest: int) -> list[int]:
    """What prompt lookup means, without an index."""
    for size in range(longest, shortest - 1, -1):
        for end in range(len(tokens) - 1, size - 1, -1):
            if tokens[end - size:end] == tokens[-size:] and size <= len(tokens):
                text = list(tokens)
                for i in range(k):
                    text.append(text[end + i])
                return text[len(tokens):]
    return []


@settings(max_examples=200, deadline=None)
@given(pieces=st.lists(st.lists(st.integers(0, 3), max_size=6), min_size=1, max_size=12), k=st.integers(1, 6),
       shortest=st.integers(1, 3), more=st.integers(0, 2))
def test_the_index_finds_what_a_scan_finds(pieces: list[list[int]], k: int, shortest: int, more: int) -> None:
    grown, tokens = PromptLookup(k, shortest + more, shortest), []
    for piece in pieces:                                       # token lists of one request only grow
        tokens = tokens + piece
        assert grown.propose(tokens, k) == by_scan(tokens, k, shortest + more, shortest)
    assert grown.propose(tokens[1:], k) == by_scan(tokens[1:], k, shortest + more, shortest)      # another text
    assert grown.fresh().propose([], k) == []


def test_a_draft_model_is_its_own_greedy_continuation(small: Transformer) -> None:
    draft = DraftModel(first_layers(small, 2), k=5)
    rng = random.Random(0)
    tokens = [rng.randrange(23) for _ in range(9)]
    for _ in range(22):                                        # also past the first 64 slots
        alone = [s.token_id for s in generate_naive(draft.model, tokens, SamplingParams(temperature=0, max_tokens=5))]
        assert draft.propose(tokens, 5) == alone
        tokens = tokens + alone[:rng.randrange(6)] + [rng.randrange(23)]         # some accepted, one corrected
    assert draft._cache.capacity > 64
    assert draft.propose([3, 4], 2) == draft.fresh().propose([3, 4], 2)


def test_a_draft_model_ends_with_its_context(small: Transformer) -> None:
    draft = DraftModel(small, k=4)
    for length, guesses in [(92, 4), (94, 3), (96, 1), (97, 0), (120, 0)]:
        assert len(draft.propose([1] * length, 4)) == guesses


def test_the_first_layers_share_the_weights(small: Transformer) -> None:
    cut = first_layers(small, 2)
    assert len(cut.layers) == cut.config.num_hidden_layers == 2 and cut.embed is small.embed
    tokens = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(first_layers(small, 3)(tokens), small(tokens))
    assert len(small.layers) == small.config.num_hidden_layers == 3
    with pytest.raises(ValueError, match="n=4; the model has layers 1 to 3"):
        first_layers(small, 4)


@pytest.mark.parametrize("make, message", [
    (lambda m: PromptLookup(k=0), "k=0, longest=3, shortest=2"), (lambda m: PromptLookup(longest=1), "longest=1, shortest=2"),
    (lambda m: DraftModel(m, 0), "k=0; a draft has at least 1 token"),
    (lambda m: as_proposer("prompt_lockup", 23), "Did you mean 'prompt_lookup'"),
    (lambda m: as_proposer(DraftModel(m), 24), "the draft model knows 23 tokens and the model 24"),
])
def test_settings_that_cannot_work(make, message: str, small: Transformer) -> None:
    with pytest.raises(ValueError, match=message):
        make(small)
    assert as_proposer(None, 23) is None and as_proposer("prompt_lookup", 23).k == PromptLookup().k


# The rule

def test_acceptance_is_the_longest_right_beginning() -> None:
    chosen = [3, 1, 4, 2]
    for draft, expected in [([3, 1, 4], [3, 1, 4, 2]), ([3, 1, 0], [3, 1, 4]), ([3, 0, 4], [3, 1]), ([0, 1, 4], [3]), ([], [3])]:
        assert accept(chosen[:len(draft) + 1], draft) == expected
    assert accept(chosen, [3, 1, 4], stop_ids=[1]) == [3, 1] and accept(chosen, [3, 1, 4], stop_ids=[2]) == chosen
    assert accept([None, 1], [3]) == [None]                    # logits that were not numbers are no guess


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.6}, {"top_k": 2}, {"top_p": 0.7}])
def test_one_guess_is_accepted_with_its_probability_and_replaced_by_the_rest(sampling: dict) -> None:
    """The accept/reject rule, case by case: P(x) = p(x), and given a refusal the rest of p, renormalised."""
    params, guess, draws = SamplingParams(seed=5, **sampling), 1, 4000
    logits = torch.tensor([0.3, 0.9, -0.2, 1.1])
    p, sampler, made = probabilities(logits, params), Sampler(params), []
    for _ in range(draws):
        chosen = [choice.token_id for choice in choose(logits.expand(2, 4), rows_ahead(sampler, [guess], (), 0))]
        made.append(accept(chosen, [guess]))
        for token in made[-1]:
            sampler.took(token)
    refused = torch.tensor([m[0] for m in made if len(m) == 1])
    assert abs(1 - len(refused) / draws - p[guess]) < 4 * (p[guess] * (1 - p[guess]) / draws) ** 0.5 + 1e-9
    rest = p.index_fill(0, torch.tensor([guess]), 0) / (1 - p[guess])
    seen = torch.bincount(refused, minlength=4) / len(refused)
    assert (seen - rest).abs().max() < 4 * 0.5 / len(refused) ** 0.5
    after = torch.bincount(torch.tensor([m[1] for m in made if len(m) == 2]), minlength=4)
    assert (after / after.sum() - p).abs().max() < 4 * 0.5 / float(after.sum()) ** 0.5


def test_texts_have_the_models_probabilities() -> None:
    """All texts of three tokens over a vocabulary of three, against their exact probabilities."""
    torch.manual_seed(2)
    config = ModelConfig(vocab_size=3, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
                         head_dim=4, intermediate_size=8, max_position_embeddings=8)
    model = Transformer(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.7)
    exact = torch.ones(3, 3, 3)
    for a in range(3):
        for b in range(3):
            p = model(torch.tensor([[0, a, b]]))[0].softmax(-1)                    # [3, V]
            exact[a, b] = p[0, a] * p[1, b] * p[2]
    counts, draws = torch.zeros(3, 3, 3), 1500
    for seed in range(draws):
        proposer = Script(lambda tokens: [1, seed % 3, 2])                          # right, wrong, and right after wrong
        counts[tuple(tokens_of(list(generate_speculative(model, [0], SamplingParams(max_tokens=3, seed=seed), proposer))))] += 1
    assert (counts / draws - exact).abs().max() < 4 * float((exact * (1 - exact)).max() / draws) ** 0.5
    chi_square = float(((counts - draws * exact) ** 2 / (draws * exact)).sum())
    assert chi_square < 26 + 4 * (2 * 26) ** 0.5                                   # 27 texts: mean 26, variance 52


# Generating

@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 0.8, "top_p": 0.9},
                                      {"temperature": 1.5, "top_k": 7, "repetition_penalty": 1.3}])
@pytest.mark.parametrize("k", range(1, 9))
def test_same_tokens_on_a_small_model(k: int, sampling: dict, small: Transformer) -> None:
    rng = random.Random(k)
    for seed in range(3):
        prompt = [rng.randrange(23) for _ in range(rng.randrange(1, 20))]
        params = SamplingParams(max_tokens=rng.randrange(1, 40), seed=seed, **sampling)
        alone = [s.token_id for s in generate_naive(small, prompt, params)]
        for proposer in (PromptLookup(k, 2, 1), DraftModel(first_layers(small, 2), k), DraftModel(small, k),
                         Script(lambda tokens: [rng.randrange(23) for _ in range(k)], k)):
            steps = list(generate_speculative(small, prompt, params, proposer))
            assert tokens_of(steps) == alone
            assert all(len(s.token_ids) == 1 + s.accepted <= 1 + s.drafted <= 1 + k for s in steps)


def test_same_tokens_on_the_real_model(llm: LLM) -> None:
    quoting = "def area(width, height):\n    return width * height\n\ndef area(width, height):\n    return width"
    params = SamplingParams(temperature=0, max_tokens=18, ignore_eos=True)
    for text, sizes in [("1, 2, 3, 4, 5, 6,", (1, 3, 5, 7)), (quoting, (2, 4, 6, 8))]:
        prompt = llm.tokenizer.encode(text)
        alone = [s.token_id for s in generate_naive(llm.model, prompt, params)]
        proposers = [PromptLookup(k, 3, 1) for k in sizes] + [DraftModel(llm.model), DraftModel(first_layers(llm.model, 3), 2)]
        for proposer in proposers:
            assert tokens_of(list(generate_speculative(llm.model, prompt, params, proposer))) == alone


def test_right_guesses_save_passes(small: Transformer) -> None:
    params = SamplingParams(temperature=0, max_tokens=20)
    alone = [s.token_id for s in generate_cached(small, [1, 2], params)]
    steps = list(generate_speculative(small, [1, 2], params, foresee([1, 2, *alone])))
    assert [len(s.token_ids) for s in steps] == [5, 5, 5, 5]
    assert [s.tokens_run for s in steps] == [6, 5, 5, 5]                          # the prompt, then last token + 4 guesses
    wrong = list(generate_speculative(small, [1, 2], params, Script(lambda tokens: [(t + 1) % 23 for t in alone[len(tokens) - 2:]])))
    assert [(s.drafted, s.accepted) for s in wrong] == [(min(4, 19 - i), 0) for i in range(20)]
    assert tokens_of(wrong) == alone
    assert all(s.step_seconds > s.draft_seconds >= 0 for s in steps)


def test_guesses_never_reach_past_the_end(small: Transformer) -> None:
    """max_tokens ends the text inside what could have been a draft, and the cache has no slot too many."""
    for most in range(1, 12):
        params = SamplingParams(temperature=0, max_tokens=most)
        alone = [s.token_id for s in generate_cached(small, [1, 2], params)]
        proposer = foresee([1, 2, *alone, 0, 0, 0, 0, 0])
        assert tokens_of(list(generate_speculative(small, [1, 2], params, proposer))) == alone
        assert all(length + k + 1 <= 2 + most for length, k in proposer.asked)


def test_a_context_filled_to_its_last_token(small: Transformer) -> None:
    prompt = [i % 5 for i in range(80)]
    params = SamplingParams(temperature=0, max_tokens=16)                         # 96 = the model's context
    alone = [s.token_id for s in generate_cached(small, prompt, params)]
    for proposer in (PromptLookup(8, 2, 1), DraftModel(small, 8)):
        assert tokens_of(list(generate_speculative(small, prompt, params, proposer))) == alone


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 1.2, "seed": 3}])
def test_a_stop_inside_a_draft_ends_the_text(sampling: dict, small: Transformer) -> None:
    free = [s.token_id for s in generate_cached(small, [1, 2], SamplingParams(max_tokens=30, **sampling))]
    for stop in sorted(set(free)):
        stopped = SamplingParams(max_tokens=30, stop_token_ids=[stop], **sampling)
        alone = [s.token_id for s in generate_cached(small, [1, 2], stopped)]
        assert alone[-1] == stop and alone == free[:len(alone)]
        for proposer in (foresee([1, 2, *free]), PromptLookup(4, 2, 1), DraftModel(small)):
            assert tokens_of(list(generate_speculative(small, [1, 2], stopped, proposer))) == alone
        by_eos = SamplingParams(max_tokens=30, **sampling)
        assert tokens_of(list(generate_speculative(small, [1, 2], by_eos, foresee([1, 2, *free]), (stop,)))) == alone
        ignored = SamplingParams(max_tokens=30, ignore_eos=True, **sampling)
        assert tokens_of(list(generate_speculative(small, [1, 2], ignored, foresee([1, 2, *free]), (stop,)))) == free


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 1.2, "seed": 3}])
def test_min_tokens_holds_inside_a_draft(sampling: dict, small: Transformer) -> None:
    free = [s.token_id for s in generate_cached(small, [1, 2], SamplingParams(max_tokens=20, **sampling))]
    for least in range(0, 20, 3):
        params = SamplingParams(max_tokens=20, min_tokens=least, stop_token_ids=sorted(set(free[:4])), **sampling)
        alone = [s.token_id for s in generate_cached(small, [1, 2], params)]
        assert len(alone) > least or len(alone) == 20
        for proposer in (foresee([1, 2, *free]), foresee([1, 2, *alone]), DraftModel(small)):
            assert tokens_of(list(generate_speculative(small, [1, 2], params, proposer))) == alone


def test_a_prompt_ending_in_a_stop_id_is_no_end(small: Transformer) -> None:
    params = SamplingParams(temperature=0, max_tokens=5, stop_token_ids=[7])
    alone = [s.token_id for s in generate_cached(small, [3, 7], params)]
    assert tokens_of(list(generate_speculative(small, [3, 7], params, PromptLookup()))) == alone


def test_a_prompt_of_nothing(small: Transformer) -> None:
    with pytest.raises(ValueError, match="the prompt is empty"):
        list(generate_speculative(small, [], SamplingParams(), PromptLookup()))


# In the engine

def guessing(model: Transformer, proposer, blocks: int = 80, **settings_) -> Engine:
    return engine_with(model, blocks, speculative=proposer, **settings_)


def serve(engine: Engine, requests: dict[str, tuple[list[int], SamplingParams]]) -> tuple[dict, list[StepRecord]]:
    """Tokens of every answer, and the records, which must add up."""
    for name, (prompt, params) in requests.items():
        engine.add(name, prompt, params)
    made, records = {(name, i): [] for name, (_, params) in requests.items() for i in range(params.n)}, []
    for record in engine.stream():
        records.append(record)
        for m in record.made:
            made[m.request_id, m.index].append(m.token_id)
        assert record.free_blocks + record.cached_blocks + record.used_blocks == engine.pool.total
        ran = {name: count for name, _, count in record.ran}
        assert sum(ran.values()) <= engine.scheduler.token_budget
        for name, drafted, accepted in record.guessed:
            assert 0 <= accepted <= drafted == ran[name] - 1
    assert engine.pool.used == 0
    return made, records


@pytest.fixture(scope="module")
def traffic(small: Transformer) -> tuple[dict, dict]:
    """Requests of all kinds, and the tokens of each of their answers alone."""
    rng, requests = random.Random(0), {}
    shared = [rng.randrange(23) for _ in range(12)]
    kinds = [{"temperature": 0}, {"temperature": 0, "repetition_penalty": 1.2}, {"temperature": 0.9, "top_p": 0.9},
             {"temperature": 1.3, "n": 2}, {"temperature": 0, "stop_token_ids": [3, 8], "min_tokens": 3}]
    for i in range(10):
        prompt = (shared[:rng.randrange(12)] if i % 2 else []) + [rng.randrange(23) for _ in range(rng.randrange(1, 16))]
        requests[str(i)] = (prompt, SamplingParams(**{"max_tokens": rng.randrange(3, 22), "seed": i, **kinds[i % 5]}))
    return requests, {(name, i): [s.token_id for s in generate_cached(small, prompt, params, answer=i)]
                      for name, (prompt, params) in requests.items() for i in range(params.n)}


MODES = {
    "one": {"mode": "one"}, "static": {"mode": "static", "max_running": 4}, "continuous": {"max_running": 6},
    "chunks of 3": {"token_budget": 3, "max_running": 2}, "chunks of 7": {"token_budget": 7, "max_running": 5},
    "no prefix cache": {"prefix_caching": False}, "preempted": {"blocks": 14, "max_running": 6},
    "preempted, chunked, no prefix cache": {"blocks": 14, "max_running": 6, "token_budget": 8, "prefix_caching": False},
    "blocks of 1": {"block_size": 1, "blocks": 200}, "blocks of 16": {"block_size": 16},
}


@pytest.mark.parametrize("guesser", ["lookup", "itself", "mixed"])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_makes_the_same_tokens(mode: str, guesser: str, small: Transformer, traffic: tuple[dict, dict]) -> None:
    requests, alone = traffic
    rng, texts = random.Random(0), [requests[name][0] + made for (name, _), made in alone.items()]

    def mixed(tokens: list[int]) -> list[int]:                 # some right, some wrong, some none
        [true, *_] = [text[len(tokens):] for text in texts if text[:len(tokens)] == tokens]
        return [t if rng.random() < 0.8 else rng.randrange(23) for t in true[:rng.randrange(6)]]
    proposer = {"lookup": PromptLookup(3, 2, 1), "itself": DraftModel(small, 2), "mixed": Script(mixed, 5)}[guesser]
    got, records = serve(guessing(small, proposer, **MODES[mode]), requests)
    assert got == alone
    assert any(accepted for record in records for _, _, accepted in record.guessed)
    assert any(record.preempted for record in records) == mode.startswith("preempted")


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), blocks=st.integers(8, 20), block_size=st.integers(1, 5), running=st.integers(1, 4), budget=st.integers(4, 16))
def test_fuzz_with_aborts(seed: int, blocks: int, block_size: int, running: int, budget: int, small: Transformer) -> None:
    """Guesses now right, now wrong, requests coming and going: what is made is what each would make alone."""
    rng, known, made, aborted = random.Random(seed), {}, {}, set()          # known: prompt + answer

    def guess(tokens: list[int]) -> list[int]:
        true = known[tokens[0] + 8 * tokens[1]][len(tokens):]               # a prompt begins with its number
        return [t if rng.random() < 0.8 else 0 for t in true[:rng.randrange(5)]]
    engine = guessing(small, Script(guess), blocks, block_size=block_size, max_running=running, token_budget=budget)
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
    assert [len(record.made) for record in records] == [1, 5, 5, 1]              # prompt; 4 guesses and one more; the end
    assert [record.guessed for record in records] == [(), (("a", 4, 4),), (("a", 4, 4),), ()]
    assert [record.ran for record in records] == [(("a", 0, 2),), (("a", 2, 5),), (("a", 7, 5),), (("a", 12, 1),)]
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

    def damaged(plan):
        logits = run(plan).clone()
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
    fast = copy.copy(llm)                                      # the same weights
    fast.engine, fast._answers = Engine(llm.model, cache_bytes=1 << 27, speculative=PromptLookup(6, 3, 1)), {}
    prompts = ["Count: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10. Again: 1, 2, 3,", "The capital of France is", "x = 1\ny = 2\nx = 1\ny ="]
    params = [SamplingParams(temperature=0, max_tokens=24), SamplingParams(temperature=0.8, seed=1, max_tokens=24),
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
