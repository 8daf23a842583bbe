"""What is said of a schedule is what its table and its formula say."""

from aiinfra.parallel.orders import make_table
from aiinfra.parallel.schedule_report import report
from aiinfra.parallel.timing import StageCosts


def test_a_schedule_is_told_in_lines() -> None:
    told = report(make_table("1f1b", 2, 2)).splitlines()
    assert told == [
        "1f1b: 2 ranks with 1 stage each, micro-batches: 2",
        "rank 0  F0 F1 .  .  B0 -- .  B1 --",
        "rank 1  .  F0 B0 -- F1 B1 -- .  .",
        "",
        "rank 0 holds the activations of at most 2 micro-batches",
        "rank 1 holds the activations of at most 1 micro-batches",
        "bubble 33.3% (formula: 33.3%)"]


def test_every_action_is_drawn_whatever_it_costs() -> None:
    table = make_table("zbv", 2, 4)
    told = report(table, StageCosts(2, 2, 3))
    assert all(str(action) in told for row in table.rows for action in row)
    assert told.endswith("bubble 3.4%"), "there is no formula for these costs"
