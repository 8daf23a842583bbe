"""The counting model of a warp: checked against cases that can be counted by hand, and its invariants."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiinfra.gpu import simt

addresses = st.lists(st.integers(0, 1 << 16).map(lambda n: 4 * n), min_size=1, max_size=32)


@pytest.mark.parametrize("stride, offset, expected", [
    (1, 0, 4), (1, 4, 5), (2, 0, 8), (4, 0, 16), (8, 0, 32), (16, 0, 32), (0, 0, 1)])
def test_sectors_of_a_strided_float_load(stride, offset, expected):
    at = [offset + 4 * stride * lane for lane in range(32)]
    assert simt.sectors(at) == expected


def test_wide_loads_and_lines():
    at = [16 * lane for lane in range(32)]                # ld.global.v4: 512 bytes in one request
    assert simt.sectors(at, width=16) == 16 and simt.sectors(at, width=16, size=simt.LINE) == 4
    assert simt.sectors([28], width=8) == 2               # straddles a boundary
    assert simt.used_share(at, width=16) == 1.0
    assert simt.used_share([32 * lane for lane in range(32)]) == 1 / 8


@given(addresses)
def test_order_does_not_matter_and_bounds_hold(at):
    n = simt.sectors(at)
    assert n == simt.sectors(at[::-1]) and 1 <= n <= len(set(at))
    assert simt.sectors(at, size=simt.LINE) <= n <= 4 * simt.sectors(at, size=simt.LINE)
    assert 0 < simt.used_share(at) <= 1


@pytest.mark.parametrize(
    "words, passes",
    [
        (range(32), 1),
        ([0] * 32, 1),
        (range(0, 64, 2), 2),
        (range(0, 32 * 32, 32), 32),
        (range(0, 33 * 32, 33), 1),
        ([], 0),
    ],
)
def test_bank_passes(words, passes):
    assert simt.bank_passes([4 * word for word in words]) == passes


def test_a_branch_costs_every_path_that_a_warp_takes():
    assert simt.branch_cycles([0] * 32, [1, 20]) == 1
    assert simt.branch_cycles([0] * 31 + [1], [1, 20]) == 21
    assert simt.branch_cycles([1] + [0] * 32, [1, 20]) == 22          # a second warp of one thread
    assert simt.branch_cycles([], [1, 20]) == 0
    with pytest.raises(IndexError):
        simt.branch_cycles([2], [1, 20])


def test_a_loop_ends_with_its_last_thread():
    assert simt.loop_cycles([1] * 31 + [9]) == 9
    assert simt.loop_cycles([1] * 32 + [9], cycles=2) == 20


@given(st.lists(st.integers(0, 50), max_size=100))
def test_no_order_beats_lanes_that_never_wait_and_sorting_is_never_worse(trips):
    assert simt.loop_cycles(trips) >= simt.lane_cycles(trips) - 1e-9
    assert simt.loop_cycles(sorted(trips, reverse=True)) <= simt.loop_cycles(trips)
