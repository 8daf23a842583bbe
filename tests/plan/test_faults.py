"""Faults of other planners and simulators, each with the test that would have caught it. What no other file
guards is here.
"""

import time
from dataclasses import dataclass, field, replace

import pytest
from tests.guards import check_guards
from tests.plan.test_serving import asked, deployment
from tests.plan.test_step_cost import cost_of, decoding

from aiinfra.engine.record import Made, StepRecord
from aiinfra.engine.request import Request
from aiinfra.plan.fidelity import TimedLoad, figures, run_engine
from aiinfra.plan.published import PublishedRow, predict, read_rows
from aiinfra.plan.serving import size
from aiinfra.plan.step_cost import ServingCost

GUARDS = {
    "a scheduler written anew drifts away from the real one: Revati, arXiv 2601.00397": [
        "plan/test_simulate.py::test_the_schedule_is_the_engines_step_by_step",
        "plan/test_simulate.py::test_such_traffic_has_everything_in_it",
        "plan/test_fleet.py::test_one_replica_is_the_simulator_step_by_step",
        "plan/test_fidelity.py::test_both_make_the_same_tokens_of_the_same_requests"],
    "the cache is full and nobody says so: NIM's and vLLM's curves with a knee": [
        "plan/test_serving.py::test_both_public_knees_are_within_a_grid_point",
        "plan/test_faults.py::test_who_finds_no_cache_is_queued_and_that_is_said"],
    "a model that does not fit is planned: vLLM 17327": [
        "plan/test_split.py::test_qwen_on_h20_as_reported",
        "plan/test_serving.py::test_what_does_not_fit_says_by_how_much_and_what_would"],
    "what the host takes in every step is left out: R1 on 8 H200, 10.29 ms": [
        "plan/test_step_cost.py::test_small_batches_pay_for_launches_and_the_host",
        "plan/test_faults.py::test_the_host_takes_its_time_in_every_step"],
    "a token's experts are read, and not those of a batch": [
        "plan/test_step_cost.py::test_experts_that_are_hit_are_read_not_those_of_a_token"],
    "experts are balanced by decree: EPLB, 50,302 and 59,337 tokens/s": [
        "plan/test_step_cost.py::test_an_uneven_router_costs_what_its_busiest_rank_has",
        "plan/test_faults.py::test_balance_is_worth_what_was_measured"],
    "what was found in the cache counts as computed: DeepSeek, 73.7k and 32.2k": [
        "plan/test_serving.py::test_cached_tokens_are_counted_apart",
        "plan/test_faults.py::test_who_counts_what_comes_in_says_how_much_was_cached"],
    "guesses come true as often as suits: InferenceX states it": [
        "plan/test_serving.py::test_guesses_are_stated_and_pay_where_weights_bind",
        "plan/test_faults.py::test_no_guess_comes_true_unless_it_is_stated"],
    "a latent cache is divided by tp": [
        "plan/test_split.py::test_latent_attention_is_copied_where_heads_are_divided",
        "plan/test_step_cost.py::test_data_parallel_attention_reads_an_eighth_of_the_latent_cache"],
    "a mean that is right hides the tail: LLMServingSim, TTFT -13.6 %, TPOT -1.7 %": [
        "plan/test_recorded.py::test_the_distribution_of_both_waits_is_predicted",
        "plan/test_faults.py::test_a_tail_is_seen_where_means_agree"],
    "the measured side waits to send: coordinated omission": [
        "plan/test_simulate.py::test_who_comes_during_a_step_waits_for_its_end",
        "plan/test_faults.py::test_the_engine_is_measured_from_when_a_request_should_have_come",
        "bench/test_open_loop.py::test_times_count_from_when_it_should_have_been_sent"],
}


def test_each_fault_has_its_test() -> None:
    check_guards(GUARDS)


def published(**wanted: object) -> PublishedRow:
    [row] = [row for row in read_rows() if all(getattr(row, name) == is_ for name, is_ in wanted.items())]
    return row


def test_who_finds_no_cache_is_queued_and_that_is_said() -> None:
    """On vLLM's curve all is well with 16 requests; of 64 the cache holds some 35."""
    where = deployment("llama-3.1-70b", "H100", "fp8", "bf16", tp=2)
    room, more = (size(where, asked(clients, 7373, 200)) for clients in (16, 64))
    assert more.queued and not room.queued
    assert "queued" in more.as_json()["why"] and "queued" not in room.as_json()["why"]
    assert more.state.ttft_seconds > 10 * room.state.ttft_seconds


def without_host(cost: ServingCost) -> ServingCost:
    reached = replace(cost.efficiency, host_seconds=0.0, answer_seconds=0.0)
    return ServingCost(cost.model, cost.machine, cost.split, reached, "fp8")


def test_the_host_takes_its_time_in_every_step() -> None:
    cost = cost_of("deepseek-r1", "H200", "fp8", tp=8)
    shares = []
    for batch in (1, 4, 64):
        load = decoding(batch, 1400)
        host = cost.seconds(load) - without_host(cost).seconds(load)
        assert host == pytest.approx(cost.efficiency.host_seconds + batch * cost.efficiency.answer_seconds)
        shares.append(host / cost.seconds(load))
    assert shares[0] > 0.05 and shares == sorted(shares, reverse=True), "small batches pay the most"
    row = published(family="R1 8xH200 SGLang", role="calibrate")
    assert predict(row) == pytest.approx(row.measured, rel=0.25), "before anything was set by it"


def test_balance_is_worth_what_was_measured() -> None:
    """18 %: between a router as uneven as is usual and one whose busiest rank has twice its share."""
    prefill = {"family": "R1 prefill EP32", "gpu": "H100", "input": 4096}
    uneven, even = published(**prefill, imbalance=None), published(**prefill, imbalance=1)
    measured = even.measured / uneven.measured
    balanced = predict(even)
    assert 1 < balanced / predict(uneven) < measured, "by what is usual, which is less than theirs was"
    assert balanced / predict(replace(uneven, imbalance=2)) > measured


def test_who_counts_what_comes_in_says_how_much_was_cached() -> None:
    """Of DeepSeek's 73.7k tokens in, 32.2k were computed; without the cache a node takes in little more than
    those."""
    row = published(measured=73_700.0)
    assert 1 - row.cached / row.input == pytest.approx(32.2 / 73.7, rel=0.02)
    with_hits, without = predict(row), predict(replace(row, cached=0))
    assert without < 0.6 * with_hits
    assert without == pytest.approx(with_hits * (1 - row.cached / row.input), rel=0.25)


def test_no_guess_comes_true_unless_it_is_stated() -> None:
    plain, guessing = deployment(), replace(deployment(), drafts=3)
    slow, fast = (size(where, asked(2)) for where in (guessing, plain))
    assert slow.as_json()["accepted_guesses"] == 0 and slow.tpot_seconds >= fast.tpot_seconds
    assert all(row.accepted > 0 for row in read_rows() if row.drafts)
    assert all(row.accepted == 0 for row in read_rows() if not row.drafts)


def test_a_tail_is_seen_where_means_agree() -> None:
    load = TimedLoad("x", [Request(str(i), [1], 2) for i in range(100)], [0.0] * 100)
    even = {str(i): [1.0, 2.0] for i in range(100)}
    tailed = even | {str(i): [0.5 if i < 98 else 25.5, 26.5] for i in range(100)}
    one, other = figures(load, even), figures(load, tailed)
    assert sum(at[0] for at in even.values()) == sum(at[0] for at in tailed.values())
    assert one["TTFT P99"] == 1.0 and other["TTFT P99"] > 20 and other["ITL P50"] > one["ITL P50"]


@dataclass
class SlowEngine:
    """A step takes 50 ms, and gives everybody who is there one of his two tokens."""

    unfinished: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, *_: object) -> None:
        self.unfinished[name] = 2

    def step(self) -> StepRecord:
        time.sleep(0.05)
        made = tuple(Made(name, 0, None) for name in self.unfinished)
        self.unfinished = {name: left - 1 for name, left in self.unfinished.items() if left > 1}
        return StepRecord(ran=(), made=made, admitted=(), preempted=(), waiting=0, free_blocks=0,
                          cached_blocks=0, used_blocks=0, plan_seconds=0, model_seconds=0, sample_seconds=0)


def test_the_engine_is_measured_from_when_a_request_should_have_come() -> None:
    """The second comes while the first is served: it waits for two steps' ends, not for its own step."""
    load = TimedLoad("x", [Request(name, [1], 2) for name in "ab"], [0.0, 0.01])
    times = run_engine(SlowEngine(), load)
    assert figures(load, times)["TTFT P99"] > 0.085
