"""How paged attention is cut: enough programs for the machine, and few kinds of them to compile."""

from dataclasses import replace

import pytest

from aiinfra.kernels.paged_tiles import AttentionCut, heads_together, room_for

PLAIN = AttentionCut(heads=32, kv_heads=8, size=128, value_size=128, block_size=16, value_bytes=2, arch=90)
LATENT = replace(PLAIN, heads=128, kv_heads=1, size=576, value_size=512)


def test_splits_fill_the_machine() -> None:
    assert PLAIN.count_splits(requests=1, max_context=32_768, multiprocessors=132) == 64
    assert PLAIN.count_splits(requests=64, max_context=4096, multiprocessors=132) == 3
    assert PLAIN.count_splits(requests=512, max_context=4096, multiprocessors=132) == 1
    assert PLAIN.count_splits(requests=1, max_context=200, multiprocessors=132) == 1     # nothing to split
    assert LATENT.count_splits(requests=1, max_context=32_768, multiprocessors=132) == 16


@pytest.mark.parametrize("heads, together", [(1, 1), (3, 3), (16, 16), (20, 10), (34, 2), (128, 16)])
def test_heads_of_a_latent_cache_share_what_they_read(heads: int, together: int) -> None:
    assert heads_together(heads) == together
    assert replace(LATENT, heads=heads).programs == heads // together


@pytest.mark.parametrize("cut", [PLAIN, LATENT, replace(PLAIN, heads=9, kv_heads=3, size=64, value_size=64)])
@pytest.mark.parametrize("arch", [0, 80, 86, 90, 120])
@pytest.mark.parametrize("decode", [True, False])
def test_a_tile_has_rows_for_its_tokens(cut: AttentionCut, arch: int, decode: bool) -> None:
    constants = replace(cut, arch=arch).constants(decode)
    assert constants["TOKENS"] * constants["GROUP"] <= constants["BM"]
    assert constants["TOKENS"] == 1 or not decode
    assert constants["DP"] >= constants["DH"] and constants["RP"] >= constants["REST"]


def test_two_kinds_of_merging_are_compiled() -> None:
    assert {room_for(splits) for splits in range(1, 65)} == {16, 64}
    assert all(room_for(splits) >= splits for splits in range(1, 300))
