"""What is said of a schedule is what its table and its formula say."""

import re

import pytest

from aiinfra.__main__ import main
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


def test_the_command_prints_writes_and_reads(capsys, tmp_path) -> None:
    path = tmp_path / "table.csv"
    asked = ["parallel", "schedule", "zero_bubble", "--ranks", "2", "--micro-batches", "3"]
    assert main([*asked, "--csv", str(path)]) == 0
    first = capsys.readouterr().out
    assert "rank 1  .  F0 I0 F1 I1 W0 F2 I2 W1 W2" in first and "(formula: 10.0%)" in first
    assert main(["parallel", "schedule", str(path)]) == 0
    assert capsys.readouterr().out == first.replace("zero_bubble", "table").replace(" (formula: 10.0%)", "")
    assert main(["parallel", "schedule", "zbv", "--stages", "3"]) == 1
    assert "zbv has 2 stages a rank, not 3" in capsys.readouterr().err


@pytest.mark.program
def test_the_command_runs_a_schedule(capsys) -> None:
    asked = ["parallel", "schedule", "1f1b", "--ranks", "2", "--micro-batches", "4"]
    assert main([*asked, "--run", "0.01"]) == 0
    told = capsys.readouterr().out
    assert "measured on 2 processes" in told and "by rank: 2.00  1.00" in told
    bubble = float(re.search(r"measured.*\nbubble ([\d.]+)%", told)[1])
    assert 10 < bubble < 60, "20 % on a quiet machine"


def test_every_action_is_drawn_whatever_it_costs() -> None:
    table = make_table("zbv", 2, 4)
    told = report(table, StageCosts(2, 2, 3))
    assert all(str(action) in told for row in table.rows for action in row)
    assert told.endswith("bubble 3.4%"), "there is no formula for these costs"
