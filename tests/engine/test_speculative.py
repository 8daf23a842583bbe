"""Guessing ahead changes the number of passes and nothing else: not a token, not a probability, not a
stop."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.small_model import THREE_LAYERS, Script, foresee, random_model

from aiinfra import LLM
from aiinfra.engine.generate import generate_cached, generate_naive
from aiinfra.engine.likelihood import probabilities
from aiinfra.engine.sampler import Sampler, choose
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.engine.speculative import (DraftModel, PromptLookup, SpeculativeStep, accept, as_proposer,
                                        first_layers,
                                        generate_speculative, rows_ahead)
from aiinfra.model import ModelConfig, Transformer


@pytest.fixture(scope="module")
def small() -> Transformer:
    return random_model(THREE_LAYERS)


def tokens_of(steps: list[SpeculativeStep]) -> list[int]:
    return [token for step in steps for token in step.token_ids]


# Proposers

@pytest.mark.parametrize("tokens, k, expected", [
    ([1, 2, 3, 4, 1, 2], 3, [3, 4, 1]),                        # what followed
    ([1, 2, 3, 9, 1, 2, 4, 9, 1, 2], 2, [4, 9]),               # at the latest place
    ([5, 1, 2, 7, 8, 1, 2, 9, 5, 1, 2], 2, [7, 8]),    # a longer ending counts more than a later place
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
    assert grown.propose(tokens[1:], k) == by_scan(tokens[1:], k, shortest + more, shortest)    # another text
    assert grown.fresh().propose([], k) == []


def test_a_draft_model_is_its_own_greedy_continuation(small: Transformer) -> None:
    draft = DraftModel(first_layers(small, 2), k=5)
    rng = random.Random(0)
    tokens = [rng.randrange(23) for _ in range(9)]
    for _ in range(22):                                        # also past the first 64 slots
        alone = [s.token_id for s in generate_naive(draft.model, tokens,
                                                    SamplingParams(temperature=0, max_tokens=5))]
        assert draft.propose(tokens, 5) == alone
        tokens = tokens + alone[:rng.randrange(6)] + [rng.randrange(23)]    # some accepted, one corrected
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
    (lambda m: PromptLookup(k=0), "k=0, longest=3, shortest=2"),
    (lambda m: PromptLookup(longest=1), "longest=1, shortest=2"),
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
    for draft, expected in [([3, 1, 4], [3, 1, 4, 2]), ([3, 1, 0], [3, 1, 4]), ([3, 0, 4], [3, 1]),
                            ([0, 1, 4], [3]), ([], [3])]:
        assert accept(chosen[:len(draft) + 1], draft) == expected
    assert accept(chosen, [3, 1, 4], stop_ids=[1]) == [3, 1]
    assert accept(chosen, [3, 1, 4], stop_ids=[2]) == chosen
    assert accept([None, 1], [3]) == [None]                    # logits that were not numbers are no guess


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.6}, {"top_k": 2}, {"top_p": 0.7}])
def test_one_guess_is_accepted_with_its_probability_and_replaced_by_the_rest(sampling: dict) -> None:
    """The accept/reject rule, case by case: P(x) = p(x), and given a refusal the rest of p, renormalised."""
    params, guess, draws = SamplingParams(seed=5, **sampling), 1, 4000
    logits = torch.tensor([0.3, 0.9, -0.2, 1.1])
    p, sampler, made = probabilities(logits, params), Sampler(params), []
    for _ in range(draws):
        chosen = [choice.token_id for choice in choose(logits.expand(2, 4),
                                                       rows_ahead(sampler, [guess], (), 0))]
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
    config = ModelConfig(vocab_size=3, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                         num_key_value_heads=1,
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
        proposer = Script(lambda tokens: [1, seed % 3, 2])    # right, wrong, and right after wrong
        counts[tuple(tokens_of(list(generate_speculative(model, [0], SamplingParams(max_tokens=3, seed=seed),
                                                         proposer))))] += 1
    assert (counts / draws - exact).abs().max() < 4 * float((exact * (1 - exact)).max() / draws) ** 0.5
    chi_square = float(((counts - draws * exact) ** 2 / (draws * exact)).sum())
    assert chi_square < 26 + 4 * (2 * 26) ** 0.5    # 27 texts: mean 26, variance 52


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
    quoting = "def area(width, height):\n    return width * height\n\n" * 2
    quoting = quoting.removesuffix(" * height\n\n")
    params = SamplingParams(temperature=0, max_tokens=18, ignore_eos=True)
    for text, sizes in [("1, 2, 3, 4, 5, 6,", (1, 3, 5, 7)), (quoting, (2, 4, 6, 8))]:
        prompt = llm.tokenizer.encode(text)
        alone = [s.token_id for s in generate_naive(llm.model, prompt, params)]
        proposers = [PromptLookup(k, 3, 1) for k in sizes] + [DraftModel(llm.model),
                                                              DraftModel(first_layers(llm.model, 3), 2)]
        for proposer in proposers:
            assert tokens_of(list(generate_speculative(llm.model, prompt, params, proposer))) == alone


def test_right_guesses_save_passes(small: Transformer) -> None:
    params = SamplingParams(temperature=0, max_tokens=20)
    alone = [s.token_id for s in generate_cached(small, [1, 2], params)]
    steps = list(generate_speculative(small, [1, 2], params, foresee([1, 2, *alone])))
    assert [len(s.token_ids) for s in steps] == [5, 5, 5, 5]
    assert [s.tokens_run for s in steps] == [6, 5, 5, 5]    # the prompt, then last token + 4 guesses
    wrong = list(generate_speculative(small, [1, 2], params,
                                      Script(lambda tokens: [(t + 1) % 23 for t in alone[len(tokens) - 2:]])))
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
        assert tokens_of(list(generate_speculative(small, [1, 2], by_eos, foresee([1, 2, *free]),
                                                   (stop,)))) == alone
        ignored = SamplingParams(max_tokens=30, ignore_eos=True, **sampling)
        assert tokens_of(list(generate_speculative(small, [1, 2], ignored, foresee([1, 2, *free]),
                                                   (stop,)))) == free


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 1.2, "seed": 3}])
def test_min_tokens_holds_inside_a_draft(sampling: dict, small: Transformer) -> None:
    free = [s.token_id for s in generate_cached(small, [1, 2], SamplingParams(max_tokens=20, **sampling))]
    for least in range(0, 20, 3):
        params = SamplingParams(max_tokens=20, min_tokens=least, stop_token_ids=sorted(set(free[:4])),
                                **sampling)
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
