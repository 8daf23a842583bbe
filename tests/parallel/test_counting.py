"""What is counted is what formulas predict, for single collectives and for each engine of PyTorch; and it is
what the kernel has seen on the wire."""

import sys

import pytest

from aiinfra.parallel.counting import CollectiveCounter, sent_by
from aiinfra.parallel.launch import launch
from aiinfra.perf import collectives
from aiinfra.perf.collectives import Volume, chain, point_to_point
from tests.parallel import counted_steps
from tests.parallel.counted_steps import INNER, MICRO_BATCHES, ROWS, VALUES, WIDTH

pytestmark = pytest.mark.program
FLOAT = 4                                        # bytes
MATRIX = FLOAT * WIDTH * INNER


def predicted(rank: int, ranks: int) -> dict[str, dict[str, Volume]]:
    """By the formulas of perf/collectives.py and the shapes alone."""
    nbytes = FLOAT * VALUES
    gathered = collectives.all_gather(ranks * nbytes, ranks)
    exchanged = collectives.all_to_all(nbytes, ranks)
    rows = sum(range(ranks)) - (rank + 1) % ranks            # rank r keeps r + 1 of them, the last none
    is_last, is_root = rank == ranks - 1, rank == 0
    to_root = chain(nbytes, is_last=is_root)
    from_root = collectives.all_to_all(ranks * nbytes, ranks) if is_root else Volume(calls=1)
    return {
        "all_reduce": {"all_reduce": collectives.all_reduce(nbytes, ranks)},
        "all_gather": {"all_gather": gathered},
        "all_gather of one tensor": {"all_gather": gathered},
        "reduce_scatter": {"reduce_scatter": collectives.reduce_scatter(nbytes, ranks)},
        "all_to_all": {"all_to_all": exchanged},
        "uneven all_to_all": {"all_to_all": Volume(1, 3 * FLOAT * rows, ranks - 1)},
        "all_to_all and its gradient": {"all_to_all": 2 * exchanged},
        "broadcast": {"broadcast": chain(nbytes, is_last)},
        "reduce": {"reduce": to_root},
        "gather": {"gather": to_root},
        "scatter": {"scatter": from_root},
        "messages around a ring": {"send": point_to_point(nbytes), "receive": Volume(calls=1)},
        "barrier": {"barrier": Volume(calls=1, messages={2: 1, 4: 2}[ranks])},
        "functional all_reduce": {"all_reduce": collectives.all_reduce(nbytes, ranks)},
    }


@pytest.mark.parametrize("ranks", [2, 4])
def test_each_collective_is_counted_as_predicted(ranks):
    for rank, found in enumerate(launch(counted_steps.count_collectives, ranks)):
        assert found == predicted(rank, ranks)


@pytest.mark.parametrize("ranks", [2, 4])
def test_each_engine_sends_what_its_formula_says(ranks):
    both = 2 * MATRIX
    want = {
        "ddp": {"all_reduce": collectives.all_reduce(both, ranks)},                     # one bucket
        "fsdp": {                                # each matrix: whole twice, its gradient divided once
            "all_gather": 4 * collectives.all_gather(MATRIX, ranks),
            "reduce_scatter": 2 * collectives.reduce_scatter(MATRIX, ranks)},
        "tensor": {"all_reduce": 2 * collectives.all_reduce(FLOAT * ROWS * WIDTH, ranks)},
    }
    assert launch(counted_steps.count_engines, ranks) == [want] * ranks


def test_a_pipeline_sends_activations_on_and_gradients_back():
    first, middle, last = launch(counted_steps.count_pipeline, 3)
    one_way = MICRO_BATCHES * point_to_point(FLOAT * ROWS * WIDTH)
    assert first["send"] == last["send"] == one_way
    assert middle["send"] == 2 * one_way
    assert middle["receive"].calls == 2 * MICRO_BATCHES


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a connection has sent")
def test_formulas_are_what_goes_over_the_wire():
    values, ranks = 1 << 18, 4
    nbytes = FLOAT * values
    reduced = collectives.all_reduce(nbytes, ranks).sent_bytes
    want = {
        "all_reduce": reduced,
        "all_gather": collectives.all_gather(ranks * nbytes, ranks).sent_bytes,
        "reduce_scatter": reduced,               # gloo takes a part of an all-reduce: twice what a ring sends
        "all_to_all": collectives.all_to_all(nbytes, ranks).sent_bytes,
    }
    for found in launch(counted_steps.sent_over_tcp, ranks, values):
        assert found == pytest.approx(want, rel=0.01)


def test_one_counter_serves_two_threads():
    assert launch(counted_steps.on_two_threads, 2) == [2, 2]


def test_an_unknown_collective_is_refused_by_name():
    with pytest.raises(ValueError, match="allsomething_ is a collective whose bytes cannot be read"):
        sent_by("allsomething_", {}, None)


def test_the_table_adds_up():
    counter = CollectiveCounter()
    counter.sent["all_reduce"] += collectives.all_reduce(1000, 4)
    counter.sent["send"] += 3 * point_to_point(10)
    assert counter.total == Volume(calls=4, sent_bytes=1530, messages=9)
    *_, last = counter.table().splitlines()
    assert last.split() == ["together", "4", "9", "1,530"]
