"""Figures of a fleet's run, and the fewest machines that keep a target."""

import json
import math
from dataclasses import replace

import pytest
from tests.plan.test_fleet import COST, turns

from aiinfra.__main__ import main
from aiinfra.plan.fleet import Failure, FleetPlan, serve_fleet
from aiinfra.plan.fleet_report import in_time, machines_for, report, score, what_binds
from aiinfra.plan.latency import LatencyTarget
from aiinfra.plan.linear import LinearCost
from aiinfra.plan.traffic import Turn, as_lines

TARGET = LatencyTarget(ttft_seconds=1.0, tpot_seconds=0.05, share=0.95)
PLAN = FleetPlan(replicas=1, blocks=2000)


def test_money_and_tokens_add_up() -> None:
    """Two requests whose times can be told by hand: 8 steps of a second each, on two GPUs."""
    cost = LinearCost(step_seconds=1.0)
    pair = [
        Turn(arrival_seconds=0.0, conversation=i, prompt_tokens=3, output_tokens=made)
        for i, made in enumerate((8, 4))
    ]
    run = serve_fleet(pair, FleetPlan(replicas=1, blocks=10, gpus_each=2), cost)
    got = report(run, LatencyTarget(ttft_seconds=2.0, tpot_seconds=1.5), dollars_per_gpu_hour=3.6)
    assert got.seconds == 8.0 and got.gpu_hours == pytest.approx(16 / 3600)
    assert got.dollars == pytest.approx(0.016)
    assert got.dollars_per_million == pytest.approx(0.016 / 12e-6)
    assert got.output_tokens_per_second == pytest.approx(12 / 8)
    assert got.ttft_seconds[50] == 1.0 and got.tpot_seconds[99] == 1.0 and got.in_time == 1.0
    assert got.score == got.dollars_per_million and got.binds.startswith("nothing")
    assert report(run, TARGET, 1.0).score == math.inf, "a second a token is too slow"


def test_the_fewest_replicas_that_keep_the_target() -> None:
    todo = turns(20.0, seconds=20)
    run = machines_for(todo, PLAN, COST, TARGET)
    assert len(in_time(run, TARGET)) >= TARGET.share * len(todo)
    fewer = serve_fleet(todo, replace(PLAN, replicas=run.plan.replicas - 1), COST)
    assert run.plan.replicas > 1 and len(in_time(fewer, TARGET)) < TARGET.share * len(todo)
    assert score(fewer, TARGET, 2.0) == math.inf > score(run, TARGET, 2.0)


def test_a_target_that_no_number_of_machines_keeps_is_refused() -> None:
    with pytest.raises(ValueError, match="a request alone is too slow"):
        machines_for(turns(2.0, seconds=5), PLAN, COST, replace(TARGET, tpot_seconds=0.001))


@pytest.mark.parametrize("plan, binds", [
    (replace(PLAN, max_running=2), "max_running"),
    (replace(PLAN, blocks=520), "the KV cache"),
    (replace(PLAN, blocks=9000, token_budget=256, chunk_tokens=16), "token_budget"),
])
def test_what_binds_is_named(plan: FleetPlan, binds: str) -> None:
    run = serve_fleet(turns(12.0, seconds=30), plan, COST)
    assert what_binds(run, TARGET).startswith(binds)


def test_steps_that_are_too_slow_bind_and_a_start_does() -> None:
    run = serve_fleet(turns(1.0), replace(PLAN, blocks=9000), COST)
    impatient = LatencyTarget(ttft_seconds=9.0, tpot_seconds=0.01)
    assert what_binds(run, impatient).startswith("the time of a step")
    plan = replace(PLAN, blocks=9000, failures=(Failure(1.0),), start_seconds=60.0)
    assert what_binds(serve_fleet(turns(1.0), plan, COST), TARGET).startswith("start-up")


def test_a_prompt_that_takes_long_binds_where_nobody_waits() -> None:
    run = serve_fleet(turns(0.05, seconds=60), replace(PLAN, blocks=9000), COST)
    hurried = LatencyTarget(ttft_seconds=1e-6, tpot_seconds=9.0)
    assert what_binds(run, hurried).startswith("reading prompts")


def test_a_price_that_there_is_not_is_null() -> None:
    """JSON knows no infinity; and where nobody was answered, no token has a price."""
    [only] = [Turn(arrival_seconds=0.0, conversation=0, prompt_tokens=3, output_tokens=30)]
    plan = FleetPlan(replicas=1, blocks=10, failures=(Failure(2.5),))
    got = report(serve_fleet([only], plan, LinearCost(step_seconds=1.0)), TARGET, 1.0)
    assert got.failed == 1 and got.score == got.dollars_per_million == math.inf and got.in_time == 0
    told = json.loads(json.dumps(got.as_json(), allow_nan=False))
    assert told["score"] is None and told["dollars_per_million"] is None and told["ttft_seconds"] == {}


def test_a_fleet_is_asked_for_on_the_command_line(tmp_path, capsys) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text(as_lines(turns(20.0, seconds=20)))
    words = ["plan", "fleet", "--model", "llama-3.1-8b", "--gpu", "A100", "--trace", str(trace)]
    assert main([*words, "--json", "--share", "0.9", "--target-ttft", "1", "--chunk-tokens", "512"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["replicas"] > 1 and found["in_time"] >= 0.9 and found["score"] < math.inf
    assert found["one_less"]["in_time"] < 0.9 and not found["one_less"]["binds"].startswith("nothing")
    assert main([*words, "--replicas", "2", "--autoscale", "1:3", "--fail", "5"]) == 0
    out = capsys.readouterr().out
    assert "llama-3.1-8b on 2 replicas of 1 GPU (A100, bf16), prefix aware" in out
    assert "what binds" in out and "$ a million output tokens" in out


@pytest.mark.parametrize("words, said", [
    (["--model", "llama-3.1-70b"], "does not fit on 1 GPU of H100"),
    (["--router", "nearest"], "router='nearest' is not known"),
    (["--trace", "nowhere.jsonl"], "nowhere.jsonl cannot be read"),
    (["--hours", "0.0001", "--rate", "0.001"], "nobody comes"),
    (["--share", "2"], "share above 0 and at most 1"),
    (["--replicas", "0", "--hours", "0.01"], "replicas=0; it must be at least 1"),
    (["--hours", "inf"], "seconds=inf; it must be above 0, and finite"),
    (["--hours", "0.01", "--start", "inf"], "start_seconds=inf"),
    (["--hours", "0.01", "--fail", "-5"], "at_seconds=-5.0; a failure is at 0 seconds or later"),
    (["--hours", "0.01", "--price", "nan", "--replicas", "1"], "dollars_per_gpu_hour=nan"),
    (["--model", "gpt-oss-120b", "--precision", "mxfp4", "--trace", "LONG"],
     "has 140,001 tokens; the context of gpt-oss-120b is 131,072"),
])
def test_what_cannot_be_is_one_line(words: list[str], said: str, capsys, tmp_path) -> None:
    long = tmp_path / "long.jsonl"
    long.write_text('{"prompt_tokens": 140000, "output_tokens": 1}\n')
    words = [str(long) if word == "LONG" else word for word in words]
    assert main(["plan", "fleet", *words]) == 1
    out, error = capsys.readouterr()
    assert not out and error.count("\n") == 1 and said in error
