"""However 32 requests are served, each gets the tokens that the naive generator makes for it alone.

The real model in float32, greedy. Other batch shapes add the same numbers in another order, so logits
differ in their last digits (by 0.0002 at most, among these), and two tokens that are nearly as likely may
change places. The prompts here are such that the likeliest token leads by 0.005 or more everywhere, and
`test_no_near_ties` checks it.
"""

import random

import pytest
import torch

from aiinfra import LLM
from aiinfra.engine.engine import Engine
from aiinfra.engine.generate import generate_cached, generate_naive
from aiinfra.engine.record import StepRecord
from aiinfra.engine.runner import PagedCache
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.engine.speculative import DraftModel, PromptLookup, first_layers, generate_speculative

TEXT = ("The harbour was quiet that morning. A boat, two gulls and a man with a lamp were all that moved. He "
        "counted the crates on the quay, wrote 47 into a small book, and looked at the sea. When the ferry "
        "came in, an hour late, nobody asked him why. ")
# On both sides of the block size (16), of chunks, and of one another; most are short because naive is slow.
LENGTHS = [1, 1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 20, 23, 24, 25, 29, 31, 32, 33, 40, 47, 48, 49, 63, 64,
           65, 96, 130, 200, 300]
SMALLEST_GAP = 0.004

Requests = list[tuple[list[int], SamplingParams]]


@pytest.fixture(scope="module")
def requests(llm: LLM) -> Requests:
    """Shuffled words, cut to length, in an order without pattern; a few answers are long, those of long
    prompts short."""
    rng, found = random.Random(2), []
    for i, length in enumerate(LENGTHS):
        words = TEXT.split() * 8
        rng.shuffle(words)
        new = 24 if i % 8 == 0 else max(4, 12 - length // 8)
        found.append((llm.tokenizer.encode(" ".join(words))[:length],
                      SamplingParams(temperature=0, max_tokens=new, ignore_eos=True)))
    rng.shuffle(found)
    return found


@pytest.fixture(scope="module")
def naive(llm: LLM, requests: Requests) -> list[list[int]]:
    return [[step.token_id for step in generate_naive(llm.model, *request)] for request in requests]


def serve(engine: Engine, requests: Requests) -> tuple[list[list[int]], list[StepRecord]]:
    """All at once; the tokens of each, and what the steps did."""
    made: list[list[int]] = [[] for _ in requests]
    for i, (prompt, params) in enumerate(requests):
        engine.add(str(i), prompt, params)
    records = list(engine.stream())
    for m in (m for record in records for m in record.made):
        made[int(m.request_id)].append(m.token_id)
    assert engine.pool.used == 0
    return made, records


def engine_of(llm: LLM, blocks: int = 400, **options) -> Engine:
    return Engine(llm.model, cache_bytes=blocks * PagedCache.block_bytes(llm.model.config, 16,
                                                                         llm.model.dtype), **options)


@torch.inference_mode()
def test_no_near_ties(llm: LLM, requests: Requests, naive: list[list[int]]) -> None:
    for (prompt, _), made in zip(requests, naive):
        logits = llm.model(torch.tensor([prompt + made[:-1]]))[0, len(prompt) - 1:]       # [made, V]
        best = logits.topk(2).values
        assert (best[:, 0] - best[:, 1]).min() > SMALLEST_GAP


def test_cached(llm: LLM, requests: Requests, naive: list[list[int]]) -> None:
    assert [[step.token_id for step in generate_cached(llm.model, *request)] for request in requests] == naive


@pytest.mark.parametrize("most, options", [
    (1, {"mode": "one"}), (8, {"mode": "static", "max_running": 8}),
    (5, {"max_running": 5, "prefix_caching": False}), (32, {}),
], ids=["one", "static", "continuous, five places, no prefix cache", "continuous"])
def test_batching(most: int, options: dict, llm: LLM, requests: Requests, naive: list[list[int]]) -> None:
    made, records = serve(engine_of(llm, **options), requests)
    together = max(len(record.ran) for record in records)
    assert together == most if most <= 8 else together > 20
    assert made == naive


@pytest.mark.parametrize("options", [{"token_budget": 37, "max_running": 32},
                                     {"token_budget": 16, "max_running": 7}, {"chunk_tokens": 5}],
                         ids=["steps of 37", "steps of 16", "chunks of 5 beside decodes"])
def test_chunks(options: dict, llm: LLM, requests: Requests, naive: list[list[int]]) -> None:
    made, records = serve(engine_of(llm, **options), requests)
    longest = str(max(range(len(requests)), key=lambda i: len(requests[i][0])))
    pieces = [count for record in records for name, _, count in record.ran if name == longest and count > 1]
    assert len(pieces) > 5 and sum(pieces) >= 299, "the prompt of 300 tokens was read in pieces"
    assert made == naive


def test_prefixes_found_in_the_cache(llm: LLM, requests: Requests, naive: list[list[int]]) -> None:
    engine = engine_of(llm)
    (first, filling), (second, finding) = serve(engine, requests), serve(engine, requests)
    run = [sum(count for record in records for *_, count in record.ran) for records in (filling, finding)]
    assert run[1] < run[0] - 1000, "whole blocks of the prompts were there already"
    assert first == naive and second == naive


def test_preempted(llm: LLM, requests: Requests, naive: list[list[int]]) -> None:
    made, records = serve(engine_of(llm, blocks=20, prefix_caching=False), requests)
    assert sum(len(record.preempted) for record in records) >= 2
    assert made == naive


@pytest.mark.parametrize("options", [{}, {"token_budget": 40, "blocks": 30}],
                         ids=["", "in small steps, with few blocks"])
def test_guesses(options: dict, llm: LLM, requests: Requests, naive: list[list[int]]) -> None:
    made, records = serve(engine_of(llm, **options, speculative=PromptLookup(4, 2, 1)), requests)
    guesses = [(run, right) for record in records for _, run, right in record.guessed]
    assert 0 < sum(right for _, right in guesses) < sum(run
                                                        for run, _ in guesses), "some came true, some did not"
    assert made == naive


def test_draft_model(llm: LLM, requests: Requests, naive: list[list[int]]) -> None:
    some = sorted(range(len(requests)), key=lambda i: len(requests[i][0]))[2:10]
    runs = [list(generate_speculative(llm.model, *requests[i], DraftModel(first_layers(llm.model, 20), 2)))
            for i in some]
    assert [[token for step in run for token in step.token_ids] for run in runs] == [naive[i] for i in some]


def test_steps_padded_as_for_cuda_graphs(llm: LLM, requests: Requests, naive: list[list[int]]) -> None:
    made, _ = serve(engine_of(llm, cuda_graphs=True), requests)
    assert made == naive


@pytest.mark.parametrize("options", [{"cuda_graphs": True}, {"token_budget": 40, "blocks": 30}],
                         ids=["padded", "in small steps, with few blocks"])
def test_one_step_ahead(options: dict, llm: LLM, requests: Requests, naive: list[list[int]]) -> None:
    made, _ = serve(engine_of(llm, **options, overlap=True), requests)
    assert made == naive


@pytest.mark.parametrize("draft, options", [
    (2, {"mode": "static", "max_running": 8, "chunk_tokens": 5}), (2, {"blocks": 20, "token_budget": 64}),
    (0, {"mode": "one", "cuda_graphs": True, "speculative": "prompt_lookup"}),
    (0, {"blocks": 20, "overlap": True, "cuda_graphs": True}),
    (0, {"mode": "static", "overlap": True, "blocks": 24, "max_running": 8}),
], ids=["static, chunks, a draft model", "preempted, chunks, a draft model", "one, padded, guesses",
        "preempted, padded, one step ahead",
        "static, few blocks, one step ahead"])
def test_combinations(draft: int, options: dict, llm: LLM, requests: Requests,
                      naive: list[list[int]]) -> None:
    if draft:
        options = {**options, "speculative": DraftModel(first_layers(llm.model, 20), draft)}
    made, records = serve(engine_of(llm, **options), requests)
    assert made == naive
    assert options.get("blocks") != 20 or sum(len(record.preempted) for record in records) >= 2
    assert not draft or 0 < sum(right for record in records for _, _, right in record.guessed)
