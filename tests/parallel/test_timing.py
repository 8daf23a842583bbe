"""Bubble and high-water mark of every table against the field's formulas."""

import pytest

from aiinfra.parallel.orders import SCHEDULES, make_table
from aiinfra.parallel.timing import Span, StageCosts, Timeline, bubble_formula, draw, held_formula
from aiinfra.parallel.timing import idle_formula, most_held, time_table

CHUNKS = {"gpipe": (1,), "1f1b": (1,), "zbv": (2,)}
COSTS = {"zbv": [StageCosts(2, 2, 2)], "zero_bubble": [StageCosts(), StageCosts(2, 3, 1.5)]}
ALL_COSTS = [StageCosts(), StageCosts(1, 0.5, 2), StageCosts(3, 2, 1)]


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_table_has_the_bubble_of_its_formula(name: str) -> None:
    for chunks in CHUNKS.get(name, (1, 2, 3)):
        for ranks in (1, 2, 4, 5):
            for microbatches in (2 * ranks, 4 * ranks):
                table = make_table(name, ranks, microbatches, chunks)
                for costs in COSTS.get(name, ALL_COSTS):
                    timeline = time_table(table, costs)
                    expected = bubble_formula(name, ranks, microbatches, chunks, costs)
                    assert timeline.bubble == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_rank_holds_as_much_as_its_formula_says(name: str) -> None:
    for chunks in CHUNKS.get(name, (1, 2, 3)):
        for ranks in (1, 2, 4, 5):
            for microbatches in (2 * ranks, 4 * ranks):
                table = make_table(name, ranks, microbatches, chunks)
                timeline = time_table(table)
                for rank in range(ranks):
                    expected = held_formula(name, rank, ranks, microbatches, chunks)
                    assert most_held(table.rows[rank]) == timeline.most_held(rank) == expected


def test_the_figures_that_everybody_quotes() -> None:
    assert bubble_formula("gpipe", 4, 4) == bubble_formula("1f1b", 4, 4) == 3 / 7
    assert bubble_formula("1f1b", 4, 8) == 3 / 11 and bubble_formula("interleaved_1f1b", 4, 8, 2) == 3 / 19
    assert bubble_formula("zero_bubble", 4, 8) == 1 / 9 and bubble_formula("zbv", 4, 8, 2) == 1.5 / 25.5
    assert [held_formula("gpipe", rank, 4, 8) for rank in range(4)] == [8, 8, 8, 8]
    assert [held_formula("1f1b", rank, 4, 8) for rank in range(4)] == [4, 3, 2, 1]
    assert [held_formula("zero_bubble", rank, 4, 8) for rank in range(4)] == [4, 4, 4, 4]


@pytest.mark.parametrize("name", SCHEDULES)
def test_where_a_formula_does_not_hold_it_is_refused(name: str) -> None:
    refused = 0
    for chunks in CHUNKS.get(name, (1, 2, 3)):
        for ranks in (2, 3, 5):
            for microbatches in range(1, 14):
                try:
                    expected = bubble_formula(name, ranks, microbatches, chunks)
                except ValueError:
                    refused += 1
                    continue
                table = make_table(name, ranks, microbatches, chunks)
                assert time_table(table).bubble == pytest.approx(expected, abs=1e-12)
    assert (refused > 0) == (name not in ("gpipe", "1f1b"))


def test_no_formula_is_stretched() -> None:
    with pytest.raises(ValueError, match="no formula for 'my_own'"):
        bubble_formula("my_own", 2, 4)
    for name, costs in (("zbv", StageCosts(1, 1, 2)), ("zero_bubble", StageCosts(1, 1, 2)),
                        ("1f1b", StageCosts(send=0.1)), ("gpipe", StageCosts(uneven=(1, 2)))):
        with pytest.raises(ValueError, match="use time_table"):
            idle_formula(name, 2, 1, costs)


def test_sending_and_uneven_stages_cost_time() -> None:
    table = make_table("1f1b", 2, 4)
    assert time_table(table).seconds == 4 * 3 + 3
    sent = time_table(table, StageCosts(send=0.25)).seconds
    assert sent > 15, "the way there and back is in the start and in the end"
    assert time_table(table, StageCosts(uneven=(1, 2))).seconds == 1 + 4 * 6 + 2
    zbv = make_table("zbv", 1, 4)
    assert time_table(zbv, StageCosts(send=9)).seconds == 12, "between stages of one rank nothing is sent"


def test_a_timeline_may_be_measured() -> None:
    forward, backward = make_table("gpipe", 1, 1).rows[0]
    line = Timeline((Span(0, forward, start=1.0, end=2.0), Span(0, backward, start=4.0, end=5.0)))
    assert line.seconds == 4 and line.busy(0) == 2 and line.bubble == 0.5 and line.most_held(0) == 1


def test_the_table_in_the_text_is_drawn() -> None:
    assert draw(make_table("1f1b", 3, 4)).splitlines() == [
        "rank 0  F0 F1 F2 .  .  .  .  B0 -- F3 B1 -- .  B2 -- .  B3 --",
        "rank 1  .  F0 F1 .  .  B0 -- F2 B1 -- F3 B2 -- .  B3 -- .  .",
        "rank 2  .  .  F0 B0 -- F1 B1 -- F2 B2 -- F3 B3 -- .  .  .  ."]
    assert draw(make_table("zbv", 1, 1), unit=0.5) == "rank 0  0F0 1F0 1I0 1W0 0I0 0W0"
