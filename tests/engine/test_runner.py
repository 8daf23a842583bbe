"""From a plan of integers to tensors and back: slots, tables, the rows that count, and tokens not yet
known."""

import torch
from tests.engine.small_model import SMALL, cache_for, decoding

from aiinfra.engine.graphs import DecodeGraphs, run_again
from aiinfra.engine.request import UNKNOWN, Request
from aiinfra.engine.runner import Newest, PagedCache, Runner, StepIntegers, padded_tables, slots_of
from aiinfra.engine.scheduler import Plan, Work
from aiinfra.model import Transformer


def work_of(tokens: list[int], blocks: list[int], start: int, count: int,
            guesses: tuple[int, ...] = ()) -> Work:
    request = Request("a", tokens, max_tokens=9)
    request.blocks = blocks
    return Work(request, start, count, guesses)


def test_a_block_has_the_bytes_of_its_tensors() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        cache = PagedCache(SMALL, 7, 4, dtype, torch.device("cpu"))
        assert cache.k.nbytes + cache.v.nbytes == 7 * PagedCache.block_bytes(SMALL, 4, dtype)


def test_a_copy_takes_whole_blocks_in_all_layers() -> None:
    cache = PagedCache(SMALL, 3, 4, torch.float32, torch.device("cpu"))
    for values in (cache.k, cache.v):
        values.normal_()
    before = cache.k.clone(), cache.v.clone()
    cache.copy([(0, 2)])
    for now, then in zip((cache.k, cache.v), before):
        assert torch.equal(now[:, 2], then[:, 0]) and torch.equal(now[:, :2], then[:, :2])


def test_every_token_has_its_slot() -> None:
    assert slots_of([work_of([1] * 9, [5, 2, 7], 3, 4), work_of([1], [0], 0, 1)], 4) == [23, 8, 9, 10, 0]


def test_tables_are_filled_up_to_the_longest() -> None:
    assert padded_tables([[5, 2, 7], [3]]) == [[5, 2, 7], [3, 0, 0]]


def test_decodes_are_counted_up_to_the_first_prompt() -> None:
    def decodes(*counts: int) -> int:
        work = [work_of([1] * 9, [0, 1, 2], 0, count) for count in counts]
        return StepIntegers.of(Plan(work, [], [], []), 4).decodes
    assert [decodes(1, 1, 3, 1), decodes(3, 1), decodes(1), decodes(2)] == [2, 0, 1, 0]


def test_only_unknown_tokens_are_written() -> None:
    waits, known, half = (work_of(tokens, [0], 1, 1) for tokens in ([4, UNKNOWN], [4, 9], [4, 5, UNKNOWN]))
    newest = Newest(torch.tensor([31, 32]), {waits.request: 1, known.request: 0, half.request: 0})
    tokens = torch.tensor([UNKNOWN, 9, 5])
    newest.write([waits, known, half], tokens)
    assert tokens.tolist() == [32, 9, 5]


def test_logits_are_those_of_who_is_up_to_date_and_of_guesses(small: Transformer) -> None:
    runner = Runner(small, cache_for(small, 9))
    prompt = work_of([1, 2, 3, 4, 5], [0, 1], 0, 5)
    with torch.inference_mode():
        expected = small(torch.tensor([[1, 2, 3, 4, 5, 6, 7]]))[0]                     # [7, V]
    torch.testing.assert_close(runner.run(Plan([prompt], [], [], [])), expected[4:5], rtol=1e-4, atol=1e-4)
    half = work_of([1, 2, 3, 4, 5], [2, 3], 0, 3)
    assert len(runner.run(Plan([half], [], [], []))) == 0
    guessing = work_of([1, 2, 3, 4, 5], [0, 1], 4, 3, (6, 7))
    torch.testing.assert_close(runner.run(Plan([guessing], [], [], [])), expected[4:], rtol=1e-4, atol=1e-4)


def test_a_step_of_decodes_goes_through_the_graph_and_only_that(small: Transformer) -> None:
    graphs = DecodeGraphs(small, cache_for(small, 40), 4, 8, run_again)
    used = []
    runner = Runner(small, graphs.cache, lambda work, newest: used.append(logits := graphs(work, newest))
                    or logits)
    half_read = Work(Request("half", [1, 2, 3, 4, 5], 1), 0, 1)    # one token of a prompt, not its last
    half_read.request.blocks = [30, 31]
    logits = runner.run(Plan([*decoding([3, 6]), half_read], [], [], []))
    assert len(logits) == 2 and used[0] is not None and len(used[0]) == 3
    prompt = Work(Request("all", [1, 2, 3], 1), 0, 3)
    prompt.request.blocks = [32]
    assert len(runner.run(Plan([prompt], [], [], []))) == 1 and used[1] is None
