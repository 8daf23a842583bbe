"""Random traffic over the scheduler and its blocks: no model, no torch, thousands of schedules.

A simulated cache holds, in every slot, which (digest of the) text its key belongs to. A step "runs" by
writing there; before that it checks that every earlier token of the request is found in its blocks. So a
block that is given to two owners, freed too early, matched wrongly or not copied before a write shows at
once.
"""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aiinfra.engine.blocks import BlockPool, chain
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
            slot = [r.blocks[i // self.size] * self.size + i % self.size
                    for i in range(work.start + work.count)]
            for i in range(work.start):
                assert self.slots.get(slot[i]) == tuple(r.tokens[:i + 1]), f"{r.id} lost token {i}"
            for i in range(work.start, work.start + work.count):
                assert slot[i] not in written, "two owners wrote one slot"
                written.add(slot[i])
                self.slots[slot[i]] = text[:i + 1]


class Traffic(RuleBasedStateMachine):
    """Requests arrive, fork, are aborted and finish, in any order, on pools of any size.

    What a rule needs is drawn as one or a few integers and spelled out here: drawing is most of the test's
    time."""

    @initialize(total=st.integers(2, 12), size=st.integers(1, 5), budget=st.integers(4, 24),
                running=st.integers(1, 4), mode=st.sampled_from(["one", "static", "continuous"]),
                caching=st.booleans(), chunked=st.booleans(),
                chunk=st.none() | st.integers(1, 12), ahead=st.booleans())
    def begin(self, total, size, budget, running, mode, caching, chunked, chunk, ahead) -> None:
        self.pool = BlockPool(total, size, caching)
        self.scheduler = Scheduler(self.pool, max(budget, running), running, mode, chunked, chunk)
        self.cache, self.requests, self.count = Cache(self.pool), [], 0
        self.digests: dict[tuple[int, ...], bytes] = {}
        self.ahead, self.flight = ahead, None

    @rule(length=st.integers(1, 20), text=st.integers(0, 3 ** 7 - 1), most=st.integers(1, 12),
          priority=st.integers(0, 2))
    def arrive(self, length, text, most, priority) -> None:
        """text: seven digits from 0 to 2, each said three times; so prompts often begin alike and go on
        differently."""
        prompt = [text // 3 ** (i // 3) % 3 for i in range(length)]
        request = Request(str(self.count), prompt, most, priority)
        self.count += 1
        try:
            self.scheduler.add(request)
        except ValueError as refusal:
            tokens = len(prompt) + most - 1
            assert str(tokens) in str(refusal)
            too_large = -(-tokens // self.pool.block_size) > self.pool.total
            assert too_large or tokens > self.scheduler.token_budget
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
        full = len(self.scheduler.running) == self.scheduler.max_running
        if self.ahead or not parents or self.scheduler.mode != "continuous" or full:
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
        """As the engine does it on a GPU: the next step is planned and asked for while this one's tokens
        are UNKNOWN."""
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
        left = [w.request.max_tokens - w.request.made for w in plan.work]
        assert all(tokens > 0 for tokens in left), "who has all its tokens runs no more"
        assert plan.tokens <= self.scheduler.token_budget
        assert len(self.scheduler.running) <= self.scheduler.max_running
        return plan, right

    def check_progress(self, plan: Plan, right: dict[Request, int]) -> None:
        for w in plan.work:
            r = w.request
            if r.status == "running":                           # not aborted meanwhile
                assert r.computed == w.start + w.count - len(w.guesses) + right.get(r, 0) <= len(r.tokens)
                needed = -(-r.computed // self.pool.block_size)
                assert len(r.blocks) == needed, "a block is kept for guesses that were wrong"
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
        assert (guessed.copies, guessed.admitted, guessed.preempted) == (plan.copies, plan.admitted,
                                                                         plan.preempted)
        assert [w.last for w in guessed.work] == [w.last for w in plan.work]
        assert self.pool.used >= before[0] and all(r.status == "running" for r, _, _ in before[1])
        return guessed, right

    def check_order(self, plan: Plan) -> None:
        """The oldest running request is never left out, and nobody overtakes an older one at the door;
        where there is a bus, one that it came for. Who enters can be read to the end; who is pushed out is
        younger than all who stay."""
        if plan.work and not plan.preempted:
            oldest = min(self.scheduler.running, key=lambda r: r.age)
            runs = any(w.request is oldest for w in plan.work)
            assert runs or oldest.pending > 1 or oldest.made == oldest.max_tokens
        for request in plan.admitted:
            queue = [r for r in self.scheduler.waiting if self.scheduler.may_enter(r)]
            assert all(request.age <= other.age for other in queue)
            blocks = -(-len(request.tokens) // self.pool.block_size)
            assert self.pool.can_allocate(blocks - len(request.blocks))
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
        pool.check()
        for block in range(pool.total):
            digest = pool.digest(block)
            if digest is not None:    # what the prefix cache knows is what was really written
                text = self.cache.slots[(block + 1) * pool.block_size - 1]
                assert text is not None and digest == self.digest_of(text)
                beginnings = (tuple(r.tokens[:len(text)]) for r in self.requests)
                assert text in beginnings, "a wrong guess was made known"

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
# 2,000 random lives, and a tenth of them in `make quick`, whose profile says 10 in place of 100.
TestTraffic.settings = settings(max_examples=20 * settings.default.max_examples, stateful_step_count=40,
                                deadline=None,
                                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
