"""The schedule of a simulation is the engine's own; its clock is the caller's."""

import random
import subprocess
import sys
from collections import defaultdict, deque
from dataclasses import dataclass

import pytest
from tests.engine.small_model import MODES, engine_with, random_model

from aiinfra.engine.blocks import BlockPool
from aiinfra.engine.engine import Engine
from aiinfra.engine.record import StepRecord
from aiinfra.engine.request import Request
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.engine.scheduler import Plan, Scheduler
from aiinfra.plan.simulate import SimulatedStep, advance, simulate

SEEN_FROM_OUTSIDE = (
    "ran",
    "made",
    "admitted",
    "preempted",
    "waiting",
    "free_blocks",
    "cached_blocks",
    "used_blocks",
)


def roomy(max_running: int = 4, **settings) -> Scheduler:
    return Scheduler(BlockPool(100, 4), max_running=max_running, **settings)


def traffic(seed: int, count: int = 12) -> list[tuple[str, list[int], int]]:
    """(id, prompt, tokens wanted); prompts often begin alike."""
    draw = random.Random(seed)
    shared = [draw.randrange(53) for _ in range(9)]
    return [
        (str(i), [*shared[: draw.choice((0, 4, 9))], draw.randrange(53)], draw.randint(1, 12))
        for i in range(count)
    ]


def names(step: SimulatedStep) -> list[str]:
    return [name for name, _, _ in step.ran]


@dataclass
class Asking:
    """A request of random traffic: when it comes, what it asks, and when its user hangs up."""

    name: str
    arrival: int
    prompt: list[int]
    params: SamplingParams
    priority: int
    leaves: int | None


def askings(seed: int, count: int) -> list[Asking]:
    """Prompts often begin alike; some stop early, have several answers, are urgent, or are aborted."""
    draw = random.Random(seed)
    todo, arrival = [], 0
    for name, prompt, wanted in traffic(seed, count):
        arrival += draw.choice((0, 0, 0, 1, 9))
        params = SamplingParams(
            n=draw.choice((1, 1, 1, 3)),
            max_tokens=3 * wanted,
            seed=draw.randrange(99),
            stop_token_ids=draw.sample(range(53), draw.choice((0, 0, 4))),
        )
        leaves = draw.choice((None, None, None, arrival + draw.randint(0, 12)))
        todo.append(Asking(name, arrival, prompt, params, priority=draw.choice((0, 0, -1, 1)), leaves=leaves))
    return todo


def served_by_the_engine(engine: Engine, todo: list[Asking]) -> list[StepRecord]:
    """Each comes and goes before the step with its number; where nobody is there, steps are left out."""
    records, clock = [], 0
    coming = deque(todo)
    leaving = deque(sorted((one for one in todo if one.leaves is not None), key=lambda one: one.leaves))
    while coming or engine.unfinished:
        while coming and coming[0].arrival <= clock:
            one = coming.popleft()
            engine.add(one.name, one.prompt, one.params, priority=one.priority)
        while leaving and leaving[0].leaves <= clock:
            engine.abort(leaving.popleft().name)
        if engine.unfinished:
            records.append(engine.step())
            clock += 1
        elif coming:
            clock = coming[0].arrival
    return records


def served_by_price(scheduler: Scheduler, todo: list[Asking],
                    records: list[StepRecord]) -> list[SimulatedStep]:
    """The same, with the tokens and the ends that the engine's records have."""
    answers: dict[str, list[int]] = defaultdict(list)
    ends: dict[tuple[str, int], int] = {}
    for made in (made for record in records for made in record.made):
        own_name = f"{made.request_id}#{made.index}" if made.index else made.request_id
        answers[own_name].append(made.token_id)
        if made.finish_reason == "stop":
            ends[made.request_id, made.index] = len(answers[own_name])
    requests = [Request(o.name, o.prompt, o.params.max_tokens, o.priority) for o in todo]
    steps = simulate(
        scheduler,
        requests,
        [one.arrival for one in todo],
        token=lambda request: answers[request.id][request.made],
        lengths={o.name: tuple(ends.get((o.name, i)) for i in range(o.params.n)) for o in todo},
        aborts={one.name: one.leaves for one in todo if one.leaves is not None},
    )
    return list(steps)


@pytest.mark.parametrize("settings", MODES.values(), ids=MODES)
def test_the_schedule_is_the_engines_step_by_step(settings: dict) -> None:
    """With early ends, several answers, priorities and aborts; and the blocks are the same ones."""
    engine, alike = (engine_with(random_model(), overlap=False, **{"blocks": 60, **settings}) for _ in "ab")
    todo = askings(1, 20)
    theirs = served_by_the_engine(engine, todo)
    ours = served_by_price(alike.scheduler, todo, theirs)
    assert len(ours) == len(theirs)
    for step, record in zip(ours, theirs):
        for field in SEEN_FROM_OUTSIDE:
            assert getattr(step, field) == getattr(record, field), field
    for pool in ("_free", "_cached", "_by_digest"):
        assert getattr(alike.pool, pool) == getattr(engine.pool, pool)


def test_such_traffic_has_everything_in_it() -> None:
    """Preemptions, prefixes found, stops, several answers and aborts: else the test above says little."""
    engine = engine_with(random_model(), overlap=False, **{"blocks": 60, **MODES["preempted"]})
    todo = askings(1, 20)
    records = served_by_the_engine(engine, todo)
    made = [made for record in records for made in record.made]
    assert sum(len(record.preempted) for record in records) > 5
    ran = [(name in record.admitted, first) for record in records for name, first, _ in record.ran]
    assert sum(entered and first > 0 for entered, first in ran) > 5, "they found a prefix"
    assert sum(one.finish_reason == "stop" for one in made) > 3 and any(one.index == 2 for one in made)
    ended = {one.request_id for one in made if one.finish_reason}
    assert sum(one.name not in ended for one in todo) >= 2, "they were aborted"


def test_nobody_is_served_before_they_arrive() -> None:
    arrivals = {"late": 7.5, "first": 0.0, "second": 2.0}
    requests = [Request(name, [1, 2, 3], 4) for name in arrivals]
    steps = list(simulate(roomy(), requests, arrivals.values()))
    begun = {name: next(step.begin_seconds for step in steps if name in names(step)) for name in arrivals}
    assert begun == {"first": 0.0, "second": 2.0, "late": 7.5}, "the clock goes on to the next who comes"


def test_who_comes_during_a_step_waits_for_its_end() -> None:
    steps = simulate(
        roomy(), [Request("a", [1], 3), Request("b", [1], 1)], [0.0, 0.1], cost=lambda plan: 10.0
    )
    assert [(step.begin_seconds, names(step)) for step in steps] == [
        (0.0, ["a"]),
        (10.0, ["a", "b"]),
        (20.0, ["a"]),
    ]


def test_the_clock_runs_by_the_cost_of_each_plan() -> None:
    def cost(plan: Plan) -> float:
        assert all(work.start == work.request.computed for work in plan.work), (
            "asked before the plan is committed"
        )
        return 0.5 * plan.tokens
    steps = list(simulate(roomy(), [Request("a", [1] * 6, 3)], cost=cost))
    assert [step.model_seconds for step in steps] == [3.0, 0.5, 0.5]
    assert [step.end_seconds for step in steps] == [3.0, 3.5, 4.0]
    assert all(step.plan_seconds == step.sample_seconds == 0 for step in steps)


@pytest.mark.parametrize("seed", range(20))
def test_every_token_that_was_asked_for_is_made_once(seed: int) -> None:
    draw = random.Random(seed)
    scheduler = Scheduler(BlockPool(9, 4, draw.random() < 0.5), draw.randint(5, 30), draw.randint(1, 5))
    requests = [Request(*one) for one in traffic(seed)]
    steps = list(simulate(scheduler, requests, [draw.uniform(0, 20) for _ in requests]))
    made = [made for step in steps for made in step.made]
    assert all(request.status == "finished" and request.made == request.max_tokens for request in requests)
    assert len(made) == sum(request.max_tokens for request in requests)
    assert sorted(m.request_id for m in made if m.finish_reason == "length") == sorted(r.id for r in requests)
    for step in steps:
        assert step.ran and sum(count for _, _, count in step.ran) <= scheduler.token_budget
        assert step.free_blocks + step.cached_blocks + step.used_blocks == 9
    assert scheduler.pool.used == 0


def test_tokens_are_run_once_where_nobody_is_pushed_out() -> None:
    requests = [Request(name, prompt, wanted) for name, prompt, wanted in traffic(5)]
    scheduler = Scheduler(BlockPool(200, 4, prefix_caching=False), token_budget=16, max_running=4)
    ran = sum(count for step in simulate(scheduler, requests) for _, _, count in step.ran)
    assert ran == sum(r.prompt_tokens + r.max_tokens - 1 for r in requests)


def test_between_two_steps_the_scheduler_may_be_given_requests_and_relieved_of_them() -> None:
    scheduler, long = roomy(), Request("long", [1], 50)
    ran = []
    for step in simulate(scheduler, [long]):
        ran.append(names(step))
        if len(ran) == 2:
            scheduler.add(Request("more", [1], 1))
        if len(ran) == 4:
            scheduler.finish(long)
    assert ran == [["long"], ["long"], ["long", "more"], ["long"]]


def test_a_single_step_between_forks() -> None:
    scheduler, parent = roomy(), Request("a", [1, 2, 3, 4, 5], 4)
    scheduler.add(parent)
    advance(scheduler)
    scheduler.fork(parent, Request("b", parent.prompt, 4))
    plan = advance(scheduler, token=lambda request: 9)
    assert [work.request.id for work in plan.work] == ["a", "b"] and len(plan.copies) == 1
    assert parent.tokens[-1] == 9


def test_refusals_are_the_schedulers() -> None:
    with pytest.raises(ValueError, match="request big may grow to 500 tokens"):
        list(simulate(roomy(), [Request("big", [1], 500)]))
    with pytest.raises(ValueError, match="2 requests, but 1 arrival: give each"):
        list(simulate(roomy(), [Request("a", [1], 1), Request("b", [1], 1)], [0.0]))


def test_it_needs_no_torch() -> None:
    code = "import sys; import aiinfra.plan.simulate; print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
