"""Random traffic over the scheduler and its blocks: no model, no torch, thousands of schedules.

A simulated cache holds, in every slot, which (digest of the) text its key belongs to. A step "runs" by writing
there; before that it checks that every earlier token of the request is found in its blocks. So a block that is
given to two owners, freed too early, matched wrongly or not copied before a write shows at once.
"""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aiinfra.engine.blocks import BlockPool, OutOfBlocks, chain
from aiinfra.engine.request import Request
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
    """Requests arrive, fork, are aborted and finish, in any order, on pools of any size."""

    @initialize(total=st.integers(2, 12), size=st.integers(1, 5), budget=st.integers(4, 24), running=st.integers(1, 4),
                mode=st.sampled_from(["one", "static", "continuous"]), caching=st.booleans(), chunked=st.booleans(),
                chunk=st.none() | st.integers(1, 12))
    def begin(self, total, size, budget, running, mode, caching, chunked, chunk) -> None:
        self.pool = BlockPool(total, size, caching)
        self.scheduler = Scheduler(self.pool, max(budget, running), running, mode, chunked, chunk)
        self.cache, self.requests, self.count = Cache(self.pool), [], 0
        self.stalled = 0

    @rule(prompt=st.lists(st.integers(0, 2), min_size=1, max_size=20), most=st.integers(1, 12), priority=st.integers(0, 2))
    def arrive(self, prompt, most, priority) -> None:
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

    @precondition(lambda self: self.live())
    @rule(data=st.data())
    def abort(self, data) -> None:
        self.scheduler.finish(data.draw(st.sampled_from(self.live())))

    @precondition(lambda self: any(r.pending == 1 and r.made for r in self.scheduler.running)
                  and self.scheduler.mode == "continuous" and len(self.scheduler.running) < self.scheduler.max_running)
    @rule(data=st.data())
    def fork(self, data) -> None:
        parent = data.draw(st.sampled_from([r for r in self.scheduler.running if r.pending == 1 and r.made]))
        child = Request(str(self.count), parent.prompt, parent.max_tokens, parent.priority)
        self.count += 1
        self.scheduler.fork(parent, child)
        self.requests.append(child)

    @rule(token=st.integers(0, 2), guesses=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=4))
    def step(self, token: int, guesses: list[tuple[int, int]] = ()) -> None:
        """guesses: for one request after another, how many are made and how many of these come true."""
        plan, right = self.guess(self.scheduler.plan(), list(guesses))
        assert plan.tokens <= self.scheduler.token_budget
        assert len(self.scheduler.running) <= self.scheduler.max_running
        self.check_order(plan)
        self.cache.run(plan)
        made = {w.request: token for w in plan.work if w.last}
        self.scheduler.commit(plan, made, right)
        for w in plan.work:
            r = w.request
            assert r.computed == w.start + w.count - len(w.guesses) + right.get(r, 0) <= len(r.tokens)
            assert len(r.blocks) == -(-r.computed // self.pool.block_size), "a block is kept for guesses that were wrong"
            assert r.made <= r.max_tokens
        for request in made:
            if request.made == request.max_tokens:
                self.scheduler.finish(request)
        assert plan.work or plan.preempted or not self.live(), "there was work to do and none was planned"
        if not plan.work:
            assert self.scheduler.plan().work or not self.live(), "pushing out must make room for somebody"
            self.drain_one = True

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
        is a bus, one that it came for."""
        if plan.work and not plan.preempted:
            oldest = min(self.scheduler.running, key=lambda r: r.age)
            assert any(w.request is oldest for w in plan.work) or oldest.pending > 1
        for request in plan.admitted:
            queue = [r for r in self.scheduler.waiting if self.scheduler.mode == "continuous" or r in self.scheduler._bus]
            assert all(request.age <= other.age for other in queue)
        for request in plan.preempted:
            assert not any(w.request is request for w in plan.work)

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
                assert digest == self.digest_of(text)
                assert any(tuple(r.tokens[:len(text)]) == text for r in self.requests), "a wrong guess was made known"

    def digest_of(self, text: tuple[int, ...]) -> bytes:
        digest = b""
        for start in range(0, len(text), self.pool.block_size):
            digest = chain(digest, text[start:start + self.pool.block_size])
        return digest

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
TestTraffic.settings = settings(max_examples=400, stateful_step_count=40, deadline=None,
                                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


def run(scheduler: Scheduler, steps: int = 1000) -> list[Plan]:
    """Step until nothing is left; every token made is 7."""
    plans = []
    while scheduler.running or scheduler.waiting:
        plan = scheduler.plan()
        made = {w.request: 7 for w in plan.work if w.last}
        scheduler.commit(plan, made)
        for request in made:
            if request.made == request.max_tokens:
                scheduler.finish(request)
        plans.append(plan)
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


def test_content_is_evicted_last_used_first() -> None:
    pool = BlockPool(2, 1)
    for token in (1, 2):
        [block] = pool.allocate(1)
        pool.seal(block, chain(b"", [token]))
        pool.release([block])
    pool.share(pool.match([1, 0]))
    pool.release(pool.match([1, 0]))                            # 1 was used after 2
    pool.allocate(1)
    assert pool.match([1, 0]) and not pool.match([2, 0])
