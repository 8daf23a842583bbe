"""The capstone's choices: no plan is best everywhere, and the reference is far cheaper than no thought."""

from math import inf

import pytest

from aiinfra.engine.request import Request
from aiinfra.engine.scheduler import Plan, Work
from aiinfra.lab.capstone import Day, budgets, engines, offer, straight
from aiinfra.plan.machine import read_machine
from aiinfra.plan.models import read_model
from aiinfra.plan.split import ServingSplit
from aiinfra.plan.step_cost import ServingCost


@pytest.fixture(scope="module")
def days() -> dict[str, Day]:
    return budgets()


@pytest.mark.slow
def test_the_reference_costs_about_half_of_the_naive_plan_or_less_and_no_plan_fits_all(days) -> None:
    best: dict[str, str] = {}
    for name, day in days.items():
        reference = day.reference()
        assert 1.9 * reference.score < day.naive().score < inf
        near = [other for other in day.offers if day.try_out(other, 1).score <= 1.1 * reference.score]
        best[name] = ", ".join(near)
    assert len(set(best.values())) == len(days), best


def test_no_setting_of_the_engine_is_near_the_best_on_all_machines() -> None:
    grid = [(rows, piece) for rows in (2, 4, 8, 16, 32) for piece in (8, 32, 128)]
    passing = set(grid)
    for day in engines().values():
        found = {
            (rows, piece): day.run(
                "this machine", 1, token_budget=512, max_running=rows, chunk_tokens=piece).in_time
            for rows, piece in grid
        }
        passing &= {plan for plan, share in found.items() if share >= 0.95 * max(found.values())}
    assert not passing


def test_settings_of_a_fleet_count(days) -> None:
    day = days["a chat"]
    narrow = day.try_out("1 × H200", 1, max_running=2)
    assert narrow.in_time < day.try_out("1 × H200", 1).in_time and narrow.binds.startswith("max_running")


def test_the_line_goes_through_steps_of_the_cost_that_it_stands_for() -> None:
    whole = ServingCost(read_model("qwen3-32b"), read_machine("H100"), ServingSplit(tp=2))
    line = straight(whole)
    request = Request("r", [0] * 512, 9)
    piece = Plan(work=[Work(request, 0, 512)], copies=[], admitted=[], preempted=[])
    assert line(piece) == pytest.approx(whole(piece), rel=0.05)
    assert line.decode(1, 1) == pytest.approx(whole.decode(1, 1), rel=0.05)


def test_what_there_is_not_is_refused(days) -> None:
    with pytest.raises(ValueError, match="there is no offer '3 × H100'. There are: 1 × H20"):
        days["a chat"].run("3 × H100", 1)
    with pytest.raises(ValueError, match="start_seconds is not yours to set. Yours are: router"):
        days["a chat"].try_out("1 × H200", 1, start_seconds=0)
    with pytest.raises(ValueError, match="deepseek-r1 does not fit on 1 × H100: weights of"):
        offer(read_model("deepseek-r1"), "H100", 1, 2.0)
