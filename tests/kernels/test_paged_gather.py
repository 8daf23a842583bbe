"""What a CPU fetches for paged attention: single tokens together, longer pieces one by one, and every key
once."""

import pytest
import torch

from aiinfra.kernels.paged_gather import Several, Singles, attend_fetched, plan_fetches

P, K, H, SIZE = 8, 2, 4, 16


@pytest.fixture
def cache() -> torch.Tensor:
    return torch.randn(12, P, K, SIZE, generator=torch.Generator().manual_seed(0))


def test_single_tokens_are_one_fetch_and_stand_first(cache) -> None:
    tables = [[3, 1], [5, 0], [7, 2], [4, 0]]
    fetches = plan_fetches(tables, [9, 4, 12, 5], [0, 1, 4, 4, 5], H, cache)
    assert [type(fetch) for fetch in fetches] == [Singles, Several]
    assert fetches[1].rows == slice(1, 4)
    met = fetches[0].meets.crow_indices().diff().view(5, H)            # keys that each head of each row meets
    assert met[[1, 2, 3]].sum() == 0 and (met[0] >= 9).all() and (met[4] >= 5).all()


def test_slots_follow_the_block_table(cache) -> None:
    [fetch] = plan_fetches([[3, 1]], [11], [0, 2], H, cache)
    assert fetch.slots.tolist() == [*range(24, 32), *range(8, 11)]
    assert fetch.mask.isinf().tolist() == [[False] * 10 + [True], [False] * 11]


def test_a_whole_prompt_needs_no_mask(cache) -> None:
    [fetch] = plan_fetches([[3, 1]], [11], [0, 11], H, cache)
    assert fetch.mask is None


@pytest.mark.parametrize("lengths, runs", [
    ([10, 10, 10], [3]), ([10, 11, 12], [3]), ([100, 3], [1, 1]), ([3, 100], [1, 1]),
    ([20, 20, 90, 90], [2, 2]),
])
def test_only_similar_lengths_are_padded_to_one(lengths: list[int], runs: list[int], cache) -> None:
    tables = [list(range(12)) + [0] * 4 for _ in lengths]
    [fetch] = plan_fetches(tables, [min(n, 96) for n in lengths], list(range(len(lengths) + 1)), H, cache)
    assert [len(mask) for mask in fetch.masks] == runs


def test_small_types_and_requests_without_keys_are_not_single(cache) -> None:
    half = cache.bfloat16()
    [fetch] = plan_fetches([[3]], [5], [0, 1], H, half)
    assert isinstance(fetch, Several)
    assert plan_fetches([[3], [4]], [0, 5], [0, 1, 1], H, cache) == []


def test_a_single_token_gives_what_a_piece_gives(cache) -> None:
    """The last row of a chunk, by the dense product, and the same row alone, by the sampled one."""
    k, v = cache, cache.flip(0)
    q = torch.randn(3, H, SIZE)
    piece = attend_fetched(q, k, v, plan_fetches([[3, 1]], [11], [0, 3], H, cache), 0.25)
    alone = attend_fetched(q[2:], k, v, plan_fetches([[3, 1]], [11], [0, 1], H, cache), 0.25)
    torch.testing.assert_close(alone[0], piece[2])


def test_rows_of_no_fetch_are_zero(cache) -> None:
    q = torch.randn(4, H, SIZE)
    fetches = plan_fetches([[3]], [5], [1, 2], H, cache)
    assert not attend_fetched(q, cache, cache, [], 1.0).any()
    out = attend_fetched(q[:2], cache, cache, fetches, 1.0)
    assert not out[0].any() and out[1].any()
