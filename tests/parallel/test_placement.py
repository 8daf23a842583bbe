import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiinfra.parallel.placement import Placement, balance, pack, replicate

# The example of DeepSeek's EPLB README: two layers, 12 experts in 4 groups, 16 places on 8 GPUs of 2 nodes.
LOADS = [[90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
         [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27]]
PUBLISHED = [[5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1],
             [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1]]


@pytest.mark.parametrize("loads, places", zip(LOADS, PUBLISHED), ids=["layer 0", "layer 1"])
def test_the_published_example_comes_out_place_by_place(loads, places):
    assert list(balance(loads, 16, devices=8, groups=4, nodes=2).experts) == places


def test_copies_even_out_what_one_favourite_overloads():
    loads = [800] + [100] * 7
    plain = Placement(tuple(range(8)), devices=8)
    copied = balance(loads, 16, devices=8)
    assert plain.imbalance(loads) == pytest.approx(800 * 8 / 1500)
    assert copied.copies(0) == 9 and copied.imbalance(loads) < 1.01


def test_a_group_stays_on_a_node():
    placement = balance(LOADS[0], 16, devices=8, groups=4, nodes=2)
    first, second = ({e // 3 for e in placement.experts[start:start + 8]} for start in (0, 8))
    assert first.isdisjoint(second) and len(first) == len(second) == 2


loads = st.lists(st.integers(0, 1000), min_size=8, max_size=8).filter(any)


@given(loads, st.sampled_from([8, 12, 16, 24]), st.sampled_from([1, 2, 4]))
def test_every_expert_has_a_place_and_nobody_is_lost(counts, places, nodes):
    placement = balance(counts, places, devices=4, groups=4, nodes=nodes)
    assert set(placement.experts) == set(range(8)) and len(placement.experts) == places
    assert {len(experts) for experts in placement.by_device} == {places // 4}
    assert sum(placement.loads(counts)) == pytest.approx(sum(counts))
    assert placement.imbalance(counts) >= 1 - 1e-9


@given(loads, st.integers(8, 30))
def test_copies_are_given_where_they_help_most(counts, places):
    """No other number of copies would make the highest load a copy lower: greedy is best here."""
    copied = replicate(counts, places)
    highest = max(count / copied.count(item) for item, count in enumerate(counts))
    for item, count in enumerate(counts):
        if copied.count(item) > 1:
            assert count / (copied.count(item) - 1) >= highest - 1e-9


def test_heavy_items_are_dealt_first():
    assert pack([1, 9, 5, 3], 2) == [[1, 0], [2, 3]]


@pytest.mark.parametrize("sizes, said", [
    (dict(places=7, devices=7), "7 places for 8 experts"),
    (dict(places=9, devices=4), r"9 places among devices \(4\)"),
    (dict(places=8, devices=4, groups=3), r"8 experts among groups \(3\)"),
    (dict(places=8, devices=4, nodes=3), r"4 devices among nodes \(3\)"),
])
def test_what_cannot_be_dealt(sizes, said):
    with pytest.raises(ValueError, match=said):
        balance([1] * 8, **sizes)
