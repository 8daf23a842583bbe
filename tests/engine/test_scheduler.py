"""Random traffic over the scheduler and its blocks: no model, no torch, thousands of schedules.

A simulated cache holds, in every slot, which (digest of the) text its key belongs to. A step "runs" by writing
there; before that it checks that every earlier token of the request is found in its blocks. So a block that is
given to two owners, freed too early, matched wrongly or not copied before a write shows at once.
"""

import random
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aiinfra.engine.blocks import BlockPool, OutOfBlocks, chain
from aiinfra.engine.request import UNKNOWN, Request
from aiinfra.engine.scheduler import Plan, Scheduler


class Cache:
    """What the KV cache would hold: for each slot, the whole text up to and including its token."""

    def __init__(self, pool: BlockPool) -> None:
        self.size = pool.block_size
        self.slots: dict[int, tuple[int, ...]] = {}

    def run(self, plan: Plan) -> None:
        for source, target in plan.copies:
            for offset in range(self.size):
                self.slots[target * self.size + offset] = self.slots.get(source * self.size + offset)
        written: set[int] = set()
        for work in plan.work:
            r = work.request
            text = (*r.tokens[:work.start], *work.tokens)
            assert len(text) == work.start + work.count
            slot = [r.blocks[i // self.size] * self.size + i % self.size for i in range(work.start + work.count)]
            for i in range(work.start):
                assert self.slots.get(slot[i]) == tuple(r.tokens[:i + 1]), f"{r.id} lost token {i}"
            for i in range(work.start, work.start + work.count):
                assert slot[i] not in written, "two owners wrote one slot"
                written.add(slot[i])
                self.slots[slot[i]] = text[:i + 1]


class Traffic(RuleBasedStateMachine):
    """Requests arrive, fork, are aborted and finish, in any order, on pools of any size.

    What a rule needs is drawn as one or a few integers and spelled out here: drawing is most of the test's time."""

    @initialize(total=st.integers(2, 12), size=st.integers(1, 5), budget=st.integers(4, 24), running=st.integers(1, 4),
                mode=st.sampled_from(["one", "static", "continuous"]), caching=st.booleans(), chunked=st.booleans(),
                chunk=st.none() | st.integers(1, 12), ahead=st.booleans())
    def begin(self, total, size, budget, running, mode, caching, chunked, chunk, ahead) -> None:
        self.pool = BlockPool(total, size, caching)
        self.scheduler = Scheduler(self.pool, max(budget, running), running, mode, chunked, chunk)
        self.cache, self.requests, self.count = Cache(self.pool), [], 0
        self.digests: dict[tuple[int, ...], bytes] = {}
        self.ahead, self.flight = ahead, None

    @rule(length=st.integers(1, 20), text=st.integers(0, 3 ** 7 - 1), most=st.integers(1, 12), priority=st.integers(0, 2))
    def arrive(self, length, text, most, priority) -> None:
        """text: seven digits from 0 to 2, each said three times; so prompts often begin alike and go on differently."""
        prompt = [text // 3 ** (i // 3) % 3 for i in range(length)]
        request = Request(str(self.count), prompt, most, priority)
        self.count += 1
        try:
            self.scheduler.add(request)
        except ValueError as refusal:
            tokens = len(prompt) + most - 1
            assert str(tokens) in str(refusal)
            assert -(-tokens // self.pool.block_size) > self.pool.total or tokens > self.scheduler.token_budget
            return
        self.requests.append(request)

    def live(self) -> list[Request]:
        return [r for r in self.requests if r.status != "finished"]

    @rule(who=st.integers(0, 11))
    def abort(self, who) -> None:
        live = self.live()
        if live:
            self.scheduler.finish(live[who % len(live)])

    @rule(who=st.integers(0, 3))
    def fork(self, who) -> None:
        parents = [r for r in self.scheduler.running if r.pending == 1 and r.made]
        if self.ahead or not parents or self.scheduler.mode != "continuous" or len(self.scheduler.running) == self.scheduler.max_running:
            return
        parent = parents[who % len(parents)]
        child = Request(str(self.count), parent.prompt, parent.max_tokens, parent.priority)
        self.count += 1
        self.scheduler.fork(parent, child)
        self.requests.append(child)

    @rule(token=st.integers(0, 2), guesses=st.integers(-49 ** 4, 49 ** 4 - 1))
    def step(self, token: int, guesses: int = 0) -> None:
        """guesses: for one of four requests after another, how many are made (0 to 6) and how many of these
        come true, as digits; none if negative."""
        if self.ahead:
            return self.step_ahead(token)
        plan, right = self.launch(guesses)
        self.cache.run(plan)
        made = {w.request: token for w in plan.work if w.last}
        self.scheduler.commit(plan, made, right)
        self.check_progress(plan, right)
        self.finish_ended(made)
        assert plan.work or not self.live(), "there was work to do and none was planned"

    def step_ahead(self, token: int) -> None:
        """As the engine does it on a GPU: the next step is planned and asked for while this one's tokens are UNKNOWN."""
        plan = self.flight
        if plan is None:
            plan, _ = self.launch()
            self.cache.run(plan)
            assert plan.work or not self.live(), "there was work to do and none was planned"
        made = {w.request: UNKNOWN for w in plan.work if w.last and w.request.status == "running"}
        self.scheduler.commit(plan, made, seal=False)
        self.check_progress(plan, {})
        following, _ = self.launch()
        for request in made:
            request.tokens[-1] = token
        self.cache.run(following)
        self.scheduler.seal(plan)
        self.finish_ended(made)
        self.flight = following if following.work else None

    def launch(self, guesses: int = 0) -> tuple[Plan, dict[Request, int]]:
        plan = self.scheduler.plan()
        self.check_order(plan)
        plan, right = self.guess(plan, [divmod(max(0, guesses) // 49 ** i % 49, 7) for i in range(4)])
        assert all(w.request.made < w.request.max_tokens for w in plan.work), "who has all its tokens runs no more"
        assert plan.tokens <= self.scheduler.token_budget
        assert len(self.scheduler.running) <= self.scheduler.max_running
        return plan, right

    def check_progress(self, plan: Plan, right: dict[Request, int]) -> None:
        for w in plan.work:
            r = w.request
            if r.status == "running":                           # not aborted meanwhile
                assert r.computed == w.start + w.count - len(w.guesses) + right.get(r, 0) <= len(r.tokens)
                assert len(r.blocks) == -(-r.computed // self.pool.block_size), "a block is kept for guesses that were wrong"
                assert r.made <= r.max_tokens

    def finish_ended(self, made: dict[Request, int]) -> None:
        for request in made:
            if request.made == request.max_tokens:
                self.scheduler.finish(request)

    def guess(self, plan: Plan, wanted: list[tuple[int, int]]) -> tuple[Plan, dict[Request, int]]:
        """The plan with guesses; they change nothing for those who run without."""
        before, right = (self.pool.used, [(w.request, w.start, w.count) for w in plan.work]), {}

        def propose(request: Request, most: int) -> list[int]:
            assert most >= 1 and request.pending == 1 and request.made
            guesses, true = wanted.pop() if wanted else (0, 0)
            right[request] = min(true, guesses, most)
            return [(request.made + i) % 3 for i in range(min(guesses, most))]
        guessed = self.scheduler.guess(plan, propose)
        assert [(w.request, w.start, w.count - len(w.guesses)) for w in guessed.work] == before[1]
        assert (guessed.copies, guessed.admitted, guessed.preempted) == (plan.copies, plan.admitted, plan.preempted)
        assert [w.last for w in guessed.work] == [w.last for w in plan.work]
        assert self.pool.used >= before[0] and all(r.status == "running" for r, _, _ in before[1])
        return guessed, right

    def check_order(self, plan: Plan) -> None:
        """The oldest running request is never left out, and nobody overtakes an older one at the door; where there
        is a bus, one that it came for. Who enters can be read to the end; who is pushed out is younger than all who stay."""
        if plan.work and not plan.preempted:
            oldest = min(self.scheduler.running, key=lambda r: r.age)
            assert any(w.request is oldest for w in plan.work) or oldest.pending > 1 or oldest.made == oldest.max_tokens
        for request in plan.admitted:
            queue = [r for r in self.scheduler.waiting if self.scheduler.mode == "continuous" or r in self.scheduler._bus]
            assert all(request.age <= other.age for other in queue)
            assert self.pool.can_allocate(-(-len(request.tokens) // self.pool.block_size) - len(request.blocks))
        for request in plan.preempted:
            assert not any(w.request is request for w in plan.work)
            assert all(other.age < request.age for other in self.scheduler.running)

    @invariant()
    def blocks_add_up(self) -> None:
        if not hasattr(self, "pool"):
            return
        pool = self.pool
        assert pool.free + pool.cached + pool.used == pool.total
        owned: dict[int, int] = {}
        for r in self.requests:
            assert (r.status == "running") == (r in self.scheduler.running)
            assert r.status == "running" or not r.blocks
            for block in r.blocks:
                owned[block] = owned.get(block, 0) + 1
        assert [pool.owners(b) for b in range(pool.total)] == [owned.get(b, 0) for b in range(pool.total)]
        assert len(owned) == pool.used
        for block, digest in enumerate(pool._digest):
            if digest is not None:                              # what the prefix cache knows is what was really written
                text = self.cache.slots[(block + 1) * pool.block_size - 1]
                assert text is not None and digest == self.digest_of(text)
                assert any(tuple(r.tokens[:len(text)]) == text for r in self.requests), "a wrong guess was made known"

    def digest_of(self, text: tuple[int, ...]) -> bytes:
        """Of a text of whole blocks, each computed once."""
        if not text:
            return b""
        if text not in self.digests:
            size = self.pool.block_size
            self.digests[text] = chain(self.digest_of(text[:-size]), text[-size:])
        return self.digests[text]

    def teardown(self) -> None:
        """Left alone, everybody finishes, in a number of steps that can be stated, and nothing leaks."""
        if not hasattr(self, "pool"):
            return
        work = sum((len(r.prompt) + r.max_tokens + 2) * (len(self.requests) + 1) for r in self.live())
        for _ in range(2 * work + 2):
            if not self.live():
                break
            self.step(1)
        assert not self.live(), "a request starved"
        assert self.pool.used == 0 and not self.scheduler.running and not self.scheduler.waiting


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=2000, stateful_step_count=40, deadline=None,
                                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


def advance(scheduler: Scheduler) -> Plan:
    """One step; every token made is 7."""
    plan = scheduler.plan()
    made = {w.request: 7 for w in plan.work if w.last}
    scheduler.commit(plan, made)
    for request in made:
        if request.made == request.max_tokens:
            scheduler.finish(request)
    return plan


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
        assert [(w.request.id, w.count) for w in plan.work] in ([("short", 1), ("long", 7)], [("short", 1), ("long", 2)])
        scheduler.commit(plan, {w.request: 7 for w in plan.work if w.last})


def test_prompts_share_a_chunk_beside_decodes_and_the_whole_budget_alone() -> None:
    scheduler = Scheduler(BlockPool(100, 4, prefix_caching=False), token_budget=64, max_running=4, chunk_tokens=8)
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
    assert scheduler.pool.match([1, 2, 7, 8, 0]) == a.blocks and not scheduler.pool.match([1, 2, 7, 8, 8, 8, 0])[1:]
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


@pytest.mark.parametrize("arguments, message", [
    ((0, 4), "0 blocks of 4 tokens"), ((4, 0), "4 blocks of 0 tokens"),
])
def test_a_pool_of_nothing(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BlockPool(*arguments)


def test_what_can_never_fit_is_refused_with_the_figures() -> None:
    scheduler = Scheduler(BlockPool(4, 4))
    scheduler.add(Request("fits", [1] * 10, 7))                 # 16 tokens are ever run
    with pytest.raises(ValueError, match="request big may grow to 17 tokens = 5 blocks of 4; the cache has 4"):
        scheduler.add(Request("big", [1] * 10, 8))
    assert len(scheduler.waiting) == 1


@pytest.mark.parametrize("settings_, message", [
    ({"mode": "batch"}, "mode='batch' is not known"), ({"max_running": 0}, "max_running=0"),
    ({"token_budget": 3, "max_running": 4}, "token_budget=3, max_running=4"), ({"chunk_tokens": 0}, "chunk_tokens=0"),
])
def test_settings_that_cannot_work(settings_: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scheduler(BlockPool(4, 4), **settings_)


def test_allocation_is_all_or_nothing() -> None:
    pool = BlockPool(3, 2)
    taken = pool.allocate(2)
    with pytest.raises(OutOfBlocks, match="2 blocks wanted, 1 of 3"):
        pool.allocate(2)
    assert pool.free == 1
    pool.release(taken)
    assert pool.free == 3


def test_content_is_evicted_least_recently_used_first() -> None:
    pool = BlockPool(2, 1)
    for token in (1, 2):
        [block] = pool.allocate(1)
        pool.seal(block, chain(b"", [token]))
        pool.release([block])
    pool.share(pool.match([1, 0]))
    pool.release(pool.match([1, 0]))                            # 1 was used after 2
    pool.allocate(1)
    assert pool.match([1, 0]) and not pool.match([2, 0])


def test_the_end_of_a_prompt_is_evicted_before_its_beginning() -> None:
    pool = BlockPool(5, 2)
    scheduler = Scheduler(pool)
    prompt = list(range(9))
    scheduler.add(Request("first", prompt, 1))
    run(scheduler)
    found = pool.match(prompt)
    assert (len(found), pool.cached, pool.allocate(pool.free)) == (4, 4, [4]), "one was half empty: it is taken first"
    for left in (3, 2, 1, 0):
        pool.allocate(1)
        assert pool.match(prompt) == found[:left], "the longest beginning that has room stays known"


def test_the_least_urgent_is_pushed_out_even_if_it_came_first() -> None:
    scheduler = Scheduler(BlockPool(6, 2, prefix_caching=False), max_running=2)
    early, urgent = Request("early", [1, 2, 3, 4], 8, priority=1), Request("urgent", [5, 6, 7, 8], 8, priority=0)
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


@settings(max_examples=150, deadline=None)
@given(total=st.integers(2, 12), size=st.integers(1, 5), budget=st.integers(4, 24), running=st.integers(1, 4),
       mode=st.sampled_from(["one", "static", "continuous"]), caching=st.booleans(), chunked=st.booleans(),
       chunk=st.none() | st.integers(1, 12), seed=st.integers(0, 2 ** 32))
def test_within_a_priority_nobody_waits_for_those_who_come_later(total, size, budget, running, mode, caching, chunked, chunk,
                                                                 seed) -> None:
    """The oldest of all is never pushed out, runs at least one of its tokens in every step, and has at most prompt +
    max_tokens - 1 of them: so a request is done after the sum of these over itself and those before it, whoever follows."""
    draw = random.Random(seed)
    scheduler = Scheduler(BlockPool(total, size, caching), max(budget, running), running, mode, chunked, chunk)
    deadline: dict[Request, int] = {}                           # of those that are not done, in order of arrival
    for now in range(120):
        request = Request(str(now), [draw.randrange(2) for _ in range(draw.randint(1, 20))], draw.randint(1, 12))
        try:
            scheduler.add(request)
            deadline[request] = now + sum(len(r.prompt) + r.max_tokens - 1 for r in [*deadline, request])
        except ValueError:                                      # can never fit
            pass
        advance(scheduler)
        deadline = {r: by for r, by in deadline.items() if r.status != "finished"}
        assert all(by > now + 1 for by in deadline.values()), "who is not done yet has a step left"


def test_the_scheduler_needs_no_torch() -> None:
    code = "import sys; from aiinfra.engine import blocks, request, scheduler; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
