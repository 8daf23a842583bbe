"""What the scheduler decides, one case at a time; `test_traffic.py` has all cases at once."""

import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiinfra.engine.blocks import BlockPool
from aiinfra.engine.request import Request
from aiinfra.engine.scheduler import Plan, Scheduler
from aiinfra.plan import simulate


def advance(scheduler: Scheduler) -> Plan:
    """One step; every token made is 7."""
    return simulate.advance(scheduler, token=lambda request: 7)


def run(scheduler: Scheduler, steps: int = 1000) -> list[Plan]:
    """Step until nothing is left."""
    plans = []
    while scheduler.running or scheduler.waiting:
        plans.append(advance(scheduler))
        assert len(plans) < steps
    return plans


def test_decodes_go_before_a_long_prompt() -> None:
    scheduler = Scheduler(BlockPool(100, 4), token_budget=8, max_running=4)
    scheduler.add(Request("short", [1, 2], 20))
    first = scheduler.plan()
    scheduler.commit(first, {first.work[0].request: 7})
    scheduler.add(Request("long", list(range(30)), 2))
    for _ in range(4):
        plan = scheduler.plan()
        assert [(w.request.id, w.count) for w in plan.work] in ([("short", 1), ("long", 7)],
                                                                [("short", 1), ("long", 2)])
        scheduler.commit(plan, {w.request: 7 for w in plan.work if w.last})


def test_prompts_share_a_chunk_beside_decodes_and_the_whole_budget_alone() -> None:
    scheduler = Scheduler(BlockPool(100, 4, prefix_caching=False), token_budget=64, max_running=4,
                          chunk_tokens=8)
    for name, length in [("a", 12), ("b", 70), ("c", 30)]:
        scheduler.add(Request(name, list(range(length)), 9))
    steps = [[(w.request.id, w.count) for w in plan.work] for plan in run(scheduler)]
    assert steps[0] == [("a", 12), ("b", 52)], "nobody decodes: nobody has to wait"
    assert steps[1:4] == [[("a", 1), ("b", 8)], [("a", 1), ("b", 8)], [("a", 1), ("b", 2), ("c", 6)]]
    assert all(sum(count for _, count in step if count > 1) <= 8 for step in steps[1:])


def test_guesses_take_what_is_left_and_leave_nothing_behind() -> None:
    scheduler = Scheduler(BlockPool(3, 4), token_budget=6, max_running=2)
    a, b = Request("a", [1, 2], 9), Request("b", [3], 9)
    scheduler.add(a), scheduler.add(b)
    scheduler.commit(scheduler.plan(), {a: 7, b: 7})
    asked = []

    def propose(request: Request, most: int) -> list[int]:
        asked.append((request.id, most))
        return [8] * min(most, 3)
    plan = scheduler.guess(scheduler.plan(), propose)
    assert asked == [("a", 4), ("b", 1)]                        # 6 - 2 decodes; then 1 of the budget is left
    assert [(w.tokens, w.last) for w in plan.work] == [([7, 8, 8, 8], True), ([7, 8], True)]
    assert a.tokens == [1, 2, 7] and len(a.blocks) == 2         # a guess is no token yet
    scheduler.commit(plan, {a: 5, b: 6}, {a: 1, b: 0})
    assert (a.tokens, a.computed, len(a.blocks)) == ([1, 2, 7, 8, 5], 4, 1)
    assert (b.tokens, b.computed) == ([3, 7, 6], 2)
    assert scheduler.pool.match([1, 2, 7, 8, 0]) == a.blocks
    assert not scheduler.pool.match([1, 2, 7, 8, 8, 8, 0])[1:]
    asked.clear()
    plan = scheduler.guess(scheduler.plan(), propose)           # a has taken the last block but for b's own
    assert asked == [("a", 3), ("b", 1)] and not plan.preempted and scheduler.pool.free == 0


def test_nobody_is_pushed_out_for_a_guess() -> None:
    scheduler = Scheduler(BlockPool(2, 2, prefix_caching=False), token_budget=8, max_running=2)
    a, b = Request("a", [1], 3), Request("b", [2], 3)
    scheduler.add(a), scheduler.add(b)
    scheduler.commit(scheduler.plan(), {a: 7, b: 7})
    plan = scheduler.guess(scheduler.plan(), lambda request, most: [8] * most)
    assert [w.guesses for w in plan.work] == [(), ()] and not plan.preempted


def test_modes_differ_in_who_may_enter() -> None:
    def lengths(mode: str) -> list[int]:
        scheduler = Scheduler(BlockPool(100, 4), token_budget=64, max_running=3, mode=mode)
        for i, most in enumerate([2, 9, 4, 3, 3]):
            scheduler.add(Request(str(i), [i], most))
        return [len(plan.work) for plan in run(scheduler)]
    one, static, continuous = lengths("one"), lengths("static"), lengths("continuous")
    assert set(one) == {1} and len(one) == 21
    assert static == [3, 3, 2, 2, 1, 1, 1, 1, 1, 2, 2, 2]       # the bus waits for its slowest passenger
    assert sum(continuous) == sum(static) == 21 and len(continuous) == 9


def test_a_shared_beginning_is_computed_once() -> None:
    scheduler = Scheduler(BlockPool(100, 4), max_running=2)
    scheduler.add(Request("a", list(range(10)), 1))
    run(scheduler)
    scheduler.add(Request("b", [*range(10), 99], 1))
    plan = scheduler.plan()
    assert plan.work[0].start == 8 and plan.work[0].count == 3 and plan.admitted[0].cached_tokens == 8


def test_the_youngest_is_pushed_out_and_comes_back() -> None:
    scheduler = Scheduler(BlockPool(6, 2, prefix_caching=False), max_running=2)
    old, young = Request("old", [1, 2, 3, 4], 8), Request("young", [5, 6, 7, 8], 8)
    scheduler.add(old), scheduler.add(young)
    plans = run(scheduler)
    assert young.preemptions >= 1 and old.preemptions == 0
    assert old.made == young.made == 8
    assert any(plan.preempted == [young] for plan in plans)


def test_higher_priority_enters_first() -> None:
    scheduler = Scheduler(BlockPool(100, 4), max_running=1, token_budget=16)
    for name, priority in [("late", 5), ("urgent", 0), ("normal", 1)]:
        scheduler.add(Request(name, [1], 1, priority))
    assert [w.request.id for plan in run(scheduler) for w in plan.work] == ["urgent", "normal", "late"]


def test_what_can_never_fit_is_refused_with_the_figures() -> None:
    scheduler = Scheduler(BlockPool(4, 4))
    scheduler.add(Request("fits", [1] * 10, 7))                 # 16 tokens are ever run
    with pytest.raises(ValueError,
                       match="request big may grow to 17 tokens = 5 blocks of 4; the cache has 4"):
        scheduler.add(Request("big", [1] * 10, 8))
    assert len(scheduler.waiting) == 1


def test_the_least_urgent_is_pushed_out_even_if_it_came_first() -> None:
    scheduler = Scheduler(BlockPool(6, 2, prefix_caching=False), max_running=2)
    early = Request("early", [1, 2, 3, 4], 8, priority=1)
    urgent = Request("urgent", [5, 6, 7, 8], 8, priority=0)
    scheduler.add(early), scheduler.add(urgent)
    run(scheduler)
    assert early.preemptions >= 1 and urgent.preemptions == 0


def test_a_prompt_that_cannot_be_read_to_its_end_does_not_begin() -> None:
    """Else it would be pushed out half-read by those who decode, and begin again, for as long as they run."""
    scheduler = Scheduler(BlockPool(10, 2, prefix_caching=False), token_budget=8, max_running=2)
    decodes, reads = Request("decodes", [1] * 8, 8), Request("reads", [2] * 16, 1)
    scheduler.add(decodes), scheduler.add(reads)
    plans = run(scheduler)
    assert reads.preemptions == 0 and sum(plan.tokens for plan in plans) == 15 + 16, "every token is run once"


def test_whoever_writes_into_a_shared_block_gets_a_copy() -> None:
    scheduler = Scheduler(BlockPool(8, 4), max_running=2)
    parent, child = Request("parent", [1, 2, 3, 4, 5], 4), Request("child", [1, 2, 3, 4, 5], 4)
    scheduler.add(parent)
    scheduler.commit(scheduler.plan(), {parent: 7})
    scheduler.fork(parent, child)
    full, half = parent.blocks
    plan = scheduler.plan()
    assert plan.copies == [(half, parent.blocks[1])] and parent.blocks[1] != half
    assert child.blocks == [full, half] and parent.blocks[0] == full, "the last owner writes where it is"


def test_a_block_that_took_several_steps_to_fill_is_found() -> None:
    scheduler = Scheduler(BlockPool(8, 4), token_budget=3, max_running=1)
    scheduler.add(Request("a", [1, 2, 3, 4, 5], 8))
    run(scheduler)                                              # pieces of 3 and 2, then one token at a time
    assert len(scheduler.pool.match([1, 2, 3, 4, 5, *[7] * 8])) == 3


def test_strict_priorities() -> None:
    """The less urgent wait for as long as the more urgent keep coming, and no longer."""
    scheduler = Scheduler(BlockPool(100, 4), token_budget=8, max_running=1)
    patient = Request("patient", [1], 2, priority=1)
    scheduler.add(Request("0", [1], 3))
    scheduler.add(patient)
    for step in range(300):
        scheduler.add(Request(str(step + 1), [1], 3))
        advance(scheduler)
    assert patient.made == 0
    run(scheduler)
    assert patient.made == 2


def test_the_end_of_a_prompt_is_evicted_before_its_beginning() -> None:
    pool = BlockPool(5, 2)
    scheduler = Scheduler(pool)
    prompt = list(range(9))
    scheduler.add(Request("first", prompt, 1))
    run(scheduler)
    found = pool.match(prompt)
    free = pool.allocate(pool.free)
    assert (len(found), pool.cached, free) == (4, 4, [4]), "one was half empty: it is taken first"
    for left in (3, 2, 1, 0):
        pool.allocate(1)
        assert pool.match(prompt) == found[:left], "the longest beginning that has room stays known"


@settings(max_examples=150, deadline=None)
@given(total=st.integers(2, 12), size=st.integers(1, 5), budget=st.integers(4, 24), running=st.integers(1, 4),
       mode=st.sampled_from(["one", "static", "continuous"]), caching=st.booleans(), chunked=st.booleans(),
       chunk=st.none() | st.integers(1, 12), seed=st.integers(0, 2 ** 32))
def test_within_a_priority_nobody_waits_for_those_who_come_later(total, size, budget, running, mode, caching,
                                                                 chunked, chunk,
                                                                 seed) -> None:
    """The oldest of all is never pushed out, runs at least one of its tokens in every step, and has at most
    prompt + max_tokens - 1 of them: so a request is done after the sum of these over itself and those
    before it, whoever follows."""
    draw = random.Random(seed)
    scheduler = Scheduler(BlockPool(total, size, caching), max(budget, running), running, mode, chunked,
                          chunk)
    deadline: dict[Request, int] = {}    # of those that are not done, in order of arrival
    for now in range(120):
        request = Request(str(now), [draw.randrange(2) for _ in range(draw.randint(1, 20))],
                          draw.randint(1, 12))
        try:
            scheduler.add(request)
            deadline[request] = now + sum(len(r.prompt) + r.max_tokens - 1 for r in [*deadline, request])
        except ValueError:                                      # can never fit
            pass
        advance(scheduler)
        deadline = {r: by for r, by in deadline.items() if r.status != "finished"}
        assert all(by > now + 1 for by in deadline.values()), "who is not done yet has a step left"


def test_nobody_enters_into_blocks_that_the_rest_of_a_prompt_needs() -> None:
    """Found by the random traffic: the short one took the block that the second had been promised."""
    pool = BlockPool(3, 1, prefix_caching=False)
    scheduler = Scheduler(pool, token_budget=4, max_running=3, mode="static", chunk_tokens=1)
    for name, length in (("a", 1), ("b", 2), ("c", 1)):
        scheduler.add(Request(name, [0] * length, 1))
    plan = scheduler.plan()
    assert [(w.request.id, w.count) for w in plan.work] == [("a", 1), ("b", 1)]
    assert pool.can_allocate(1), "the rest of b can be read"


def test_the_scheduler_needs_no_torch() -> None:
    imports = "from aiinfra.engine import blocks, record, request, scheduler"
    code = f"import sys; {imports}; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
