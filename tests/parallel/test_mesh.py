"""Ranks in a grid: names, sizes, order, and what is refused."""

import pytest

from aiinfra.parallel.launch import RankFailed, launch
from aiinfra.parallel.mesh import describe_mesh, parse_mesh
from tests.parallel import rank_functions


def test_a_mesh_is_read_in_the_order_written():
    assert list(parse_mesh("tp=2, dp=4").items()) == [("tp", 2), ("dp", 4)]
    assert parse_mesh("") == {}
    assert describe_mesh(parse_mesh("dp=2,tp=2")) == "dp=2,tp=2" and describe_mesh({}) == "one rank"


@pytest.mark.parametrize("text, words", [
    ("dp", "'dp' is not NAME=SIZE"),
    ("dp=two", "'dp=two' is not NAME=SIZE"),
    ("dp=-1", "'dp=-1' is not NAME=SIZE"),
    ("dp=0", "dp=0; a dimension of a mesh has at least 1 rank"),
    ("dp=2,dp=2", "has dp twice"),
    ("ddp=2", "no dimension 'ddp'. Did you mean 'dp'"),
])
def test_what_is_no_mesh_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        parse_mesh(text)


def test_the_last_dimension_has_the_neighbours():
    got = launch(rank_functions.places, 4, {"ep": 2, "tp": 2})
    found = [sizes for sizes, _ in got]
    assert [place["ep"] for place in found] == [(2, 0), (2, 0), (2, 1), (2, 1)]
    assert [place["tp"] for place in found] == [(2, 0), (2, 1), (2, 0), (2, 1)]
    assert all(place["cp"] == (1, 0) for place in found), "a dimension that is not there has one rank"
    assert all(names == ["ep"] for _, names in got), "ranks of tp see the same tokens"


def test_a_mesh_of_another_size_is_refused_with_the_figures():
    with pytest.raises(RankFailed, match="mesh dp=2,tp=2 has 2 × 2 = 4 ranks and 2 were started. Start 4"):
        launch(rank_functions.places, 2, {"dp": 2, "tp": 2})
