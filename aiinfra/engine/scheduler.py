"""Who runs in the next step? Pure Python over integers: no tensor, no model, no clock.

    step:   │ decode │ decode │ decode │ chunk of a prompt ······ │   at most `token_budget` tokens
              every running request first,   then prompts, in pieces: beside decodes at most `chunk_tokens`

Rules: the more urgent first (the lower priority number); within a priority, first come first served. A
running request that needs a block when none can be had pushes out the least urgent, of these the youngest,
which starts again later (recomputation; its full blocks stay in the cache as long as nobody needs them).
Nobody is admitted in a step that pushed somebody out. What can never fit is refused at the door.

Who starves? Within a priority, nobody: the oldest moves in every step, and everybody becomes the oldest,
whoever comes later. But priorities are strict: the less urgent may wait for as long as the more urgent keep
coming, and their turn comes once these stop.

Guesses (see speculative.py) run behind a decode's token on what tokens and blocks the step has left, after
all others were served. They are no part of `request.tokens` before they came true: so a wrong one is never
known to the prefix cache, and nobody waits or is pushed out for one.

Modes are admission rules: "one" at a time, "static" batches that must all end before the next begins,
"continuous". Sources: Orca (Yu et al. 2022), vLLM (Kwon et al. 2023), Sarathi-Serve (Agrawal et al. 2024).
Notebooks 12 and 13.
"""

from bisect import insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter

from aiinfra.engine.blocks import BlockPool, digest_of
from aiinfra.engine.options import EngineOptions, Mode, check_steps
from aiinfra.engine.request import Request

_AGE = attrgetter("age")


@dataclass(frozen=True)
class Work:
    """Run `count` tokens of a request from token number `start`, the guesses among them."""

    request: Request
    start: int
    count: int
    guesses: tuple[int, ...] = ()

    @property
    def end(self) -> int:
        """The number of the token after those that are run."""
        return self.start + self.count

    @property
    def places(self) -> range:
        """The numbers of those that are run."""
        return range(self.start, self.end)

    @property
    def last(self) -> bool:
        """True if nothing of the request is left to run after this: a new token comes out of it. Asked before
        `commit`, which lets the request grow."""
        return self.end == len(self.request.tokens) + len(self.guesses)

    @property
    def tokens(self) -> list[int]:
        """The ids to run: of the request, then guesses."""
        known = self.end - len(self.guesses)
        return [*self.request.tokens[self.start:known], *self.guesses]


@dataclass(frozen=True)
class Plan:
    """What the next step runs, which blocks it must copy first, and who was moved."""

    work: list[Work]
    copies: list[tuple[int, int]]         # (from, to) blocks: a shared one is about to be written
    admitted: list[Request]
    preempted: list[Request]

    @property
    def tokens(self) -> int:
        """Tokens that the step runs."""
        return sum(work.count for work in self.work)


class Scheduler:
    """Plans steps over the requests added to it. `plan`, run it, `commit`; again."""

    def __init__(self, pool: BlockPool, token_budget: int = EngineOptions.token_budget,
                 max_running: int = EngineOptions.max_running, mode: Mode = EngineOptions.mode,
                 chunked: bool = EngineOptions.chunked, chunk_tokens: int | None = None) -> None:
        check_steps(token_budget, max_running, mode, chunk_tokens)
        if chunk_tokens is None or not chunked:
            chunk_tokens = token_budget
        self.pool = pool
        self.token_budget = token_budget
        self.chunk_tokens = min(chunk_tokens, token_budget)
        self.max_running = 1 if mode == "one" else max_running
        self.mode = mode
        self.chunked = chunked
        self.waiting: list[Request] = []                    # in order of age
        self.running: list[Request] = []
        self._arrivals = 0
        self._batch: list[Request] = []     # modes one and static: who runs until all of them have ended

    def add(self, request: Request, places: int = 1) -> None:
        """Queue a request. places: so many arrivals are kept for it and those that will be forked off it.
        Raises ValueError, with the figures, if it can never fit."""
        most = request.prompt_tokens + request.max_tokens - 1               # the last token made is never run
        need = self._blocks_for(most)
        have = self.pool.total
        if need > have:
            raise ValueError(f"request {request.id} may grow to {most:,} tokens = {need} blocks of "
                             f"{self.pool.block_size}; the cache has {have}. Lower max_tokens, shorten the "
                             "prompt, or give the cache more memory (cache_bytes).")
        if not self.chunked and most > self.token_budget:
            raise ValueError(f"request {request.id} may grow to {most:,} tokens and prompts are not chunked; "
                             f"a step runs {self.token_budget:,}. Raise token_budget or allow chunks.")
        self._arrive(request, places)
        insort(self.waiting, request, key=_AGE)

    def plan(self) -> Plan:
        """The next step. Blocks that it needs are taken; empty if there is nothing to do."""
        work: dict[Request, int] = {}                                     # request -> tokens to run
        copies: list[tuple[int, int]] = []
        preempted: list[Request] = []
        # Decodes before chunks: a long prompt must not delay those who are being served.
        for request in sorted(self.running, key=lambda r: (r.pending > 1, r.age)):
            count = self._tokens_for(request, work)
            if count and self._make_room(request, count, work, preempted):
                copies += self._reserve(request, count)
                work[request] = count
        admitted = [] if preempted else self._admit(work)
        # Who was pushed out after it had taken a block of its own needs no copy any more.
        copies = [(shared, own) for shared, own in copies if any(own in request.blocks for request in work)]
        return Plan(
            work=[Work(request, request.computed, count) for request, count in work.items()],
            copies=copies,
            admitted=admitted,
            preempted=preempted,
        )

    def guess(self, plan: Plan, propose: Callable[[Request, int], list[int]]) -> Plan:
        """The plan with guesses behind its decodes, as far as the budget and the blocks that can be had go.
        propose(request, most): ids that may follow, at most `most`, which is at least 1."""
        work = []
        spare = self.token_budget - plan.tokens
        for known in plan.work:
            guesses = ()
            if known.last and known.count == 1 and known.request.made:
                guesses = self._guesses(known, spare, propose)
                spare -= len(guesses)
            count = known.count + len(guesses)
            work.append(Work(request=known.request, start=known.start, count=count, guesses=guesses))
        return Plan(work=work, copies=plan.copies, admitted=plan.admitted, preempted=plan.preempted)

    def commit(self, plan: Plan, made: dict[Request, int], right: dict[Request, int] | None = None,
               seal: bool = True) -> None:
        """The step has run: `made` has the new token of every request whose work was `last`, and `right`
        how many of its guesses came true before that one (0 if left out). seal: others may find the blocks
        that are now full."""
        for work in plan.work:
            request = work.request
            if request.status != "running":                               # aborted meanwhile
                continue
            true = ()
            if work.guesses and right:
                true = work.guesses[:right.get(request, 0)]
            request.computed += work.count - len(work.guesses) + len(true)
            request.tokens += true
            if seal:
                self._seal(work)
            self._cut_blocks(request)
            if request in made:
                request.tokens.append(made[request])

    def seal(self, plan: Plan) -> None:
        """Let others find the blocks that a step has filled whose `commit` did not."""
        for work in plan.work:
            self._seal(work)

    def start_again(self, requests: list[Request]) -> None:
        """These alone, from their tokens, with all blocks empty: after a step that was broken off, wherever
        it was."""
        for request in requests:
            if request.status == "running":
                request.preemptions += 1
            request.status = "waiting"
            request.blocks = []
            request.digests = []
            request.computed = 0
        self.waiting = sorted(requests, key=_AGE)
        self.running = []
        self._batch = []
        self.pool.clear()

    def finish(self, request: Request, failed: bool = False) -> None:
        """Take a request out, whatever its state, and give its blocks back; if it `failed`, nobody is to find
        them."""
        if failed:
            # If it was pushed out meanwhile, it owns no block, and its content may still be found by its
            # tokens.
            self.pool.forget(request.blocks or self.pool.match(request.tokens))
        if request.status == "running":
            self.running.remove(request)
        elif request.status == "waiting":
            self.waiting.remove(request)
        self._give_back(request)
        request.status = "finished"

    def fork(self, parent: Request, child: Request) -> None:
        """Let `child`, with the same tokens, run beside `parent` on the same blocks; the first to write into
        a shared block gets a copy of it."""
        self._arrive(child)
        child.tokens = list(parent.tokens)
        child.computed = parent.computed
        child.blocks = list(parent.blocks)
        child.digests = list(parent.digests)
        self.pool.share(child.blocks)
        child.status = "running"
        self.running.append(child)

    def branch(self, parent: Request, child: Request, index: int, token: int) -> None:
        """Start the parent's answer number `index` with its first token: beside the parent if there is a
        place to run in, else in the queue."""
        child.arrival = parent.arrival + index               # before all who came later
        if len(self.running) < self.max_running:
            self.fork(parent, child)
        else:
            self.add(child)
        child.tokens = [*child.prompt, token]

    def may_enter(self, request: Request) -> bool:
        """True if a waiting request may be admitted once there is room; False if it must wait for the next
        batch."""
        return self.mode == "continuous" or request in self._batch

    def _arrive(self, request: Request, places: int = 1) -> None:
        if request.arrival is None:
            request.arrival = self._arrivals
            self._arrivals += places

    def _tokens_for(self, request: Request, work: dict[Request, int]) -> int:
        """How many tokens a running request may run in a step that has this `work` already; 0: it must
        wait."""
        # One that was pushed out a moment ago does not run. One step ahead, who has all its tokens has not
        # ended yet, because the last of them is UNKNOWN.
        if request.status != "running" or request.made == request.max_tokens:
            return 0
        # There is room for one token of everybody who runs; only prompts share what is left of the budget.
        if request.pending == 1:
            return 1
        return self._piece(request, self._budget(request, work))

    def _guesses(self, decode: Work, spare: int,
                 propose: Callable[[Request, int], list[int]]) -> tuple[int, ...]:
        """Guesses behind this decode, with blocks for them: as many as budget, blocks and its length
        allow."""
        request = decode.request
        end = decode.end
        blocks = len(request.blocks) + self.pool.free + self.pool.cached
        slots = blocks * self.pool.block_size - end
        left = request.max_tokens - request.made - 1                      # one token comes without a guess
        most = min(spare, slots, left)
        if most <= 0:
            return ()
        guesses = tuple(propose(request, most))
        missing = self._blocks_for(end + len(guesses)) - len(request.blocks)
        request.blocks += self.pool.allocate(missing)
        return guesses

    def _budget(self, request: Request, work: dict[Request, int]) -> int:
        """Tokens that are left to `request` in a step that has this `work` already. The chunk is shared by
        all prompts of the step: those who decode wait for their sum. With nobody to wait, it is not
        used."""
        planned = sum(work.values())
        left = self.token_budget - planned
        decodes = sum(r.pending == 1 for r in work)
        if decodes == 0 or request.pending == 1:
            return left
        of_prompts = planned - decodes
        return max(0, min(left, self.chunk_tokens - of_prompts))

    def _piece(self, request: Request, budget: int) -> int:
        """How many of its pending tokens may run now."""
        if request.pending <= budget:
            return request.pending
        return budget if self.chunked else 0

    def _make_room(self, request: Request, count: int, work: dict[Request, int],
                   preempted: list[Request]) -> bool:
        """Push out the least urgent, of these the youngest, until `request` can have its blocks; False if
        that was itself."""
        while not self.pool.can_allocate(self._missing(request, count)):
            victim = max(self.running, key=_AGE)
            work.pop(victim, None)
            self._preempt(victim)
            preempted.append(victim)
            if victim is request:
                return False
        return True

    def _admit(self, work: dict[Request, int]) -> list[Request]:
        """Start waiting requests in order, while there are places, tokens and blocks."""
        admitted = []
        promised = 0                # blocks that the rest of their prompts needs who were admitted just now
        for request in self._may_be_admitted():
            budget = self._budget(request, work)
            if len(self.running) >= self.max_running or budget == 0:
                break
            request.blocks = self.pool.match(request.tokens, request.digests)
            self.pool.share(request.blocks)
            request.computed = len(request.blocks) * self.pool.block_size
            count = self._piece(request, budget)
            # Room for the whole prompt, not just its first piece: else those who decode would push it out
            # half-read, and it would enter and be read again, for as long as they run.
            whole = self._missing(request, request.pending)
            if count == 0 or not self.pool.can_allocate(promised + whole):
                self._give_back(request)
                break
            request.cached_tokens = request.computed
            self._reserve(request, count)
            promised += self._missing(request, request.pending)
            request.status = "running"
            self.waiting.remove(request)
            self.running.append(request)
            admitted.append(request)
            work[request] = count
        return admitted

    def _may_be_admitted(self) -> Iterable[Request]:
        """Who may be admitted, in order. In modes one and static: the rest of the batch, over as many steps
        as reading its prompts takes; the next batch is put together when nobody runs."""
        if len(self.running) >= self.max_running:
            return []
        queue = (r for r in list(self.waiting) if r.made < r.max_tokens)
        if self.mode == "continuous":
            return queue
        if not self.running:
            self._batch = list(islice(queue, self.max_running))
        return [r for r in self._batch if r.status == "waiting" and r.made < r.max_tokens]

    def _missing(self, request: Request, count: int) -> int:
        """Blocks to be taken before `count` more tokens of `request` can be run."""
        new = self._blocks_for(request.computed + count) - len(request.blocks)
        if self._shared_tail(request) is not None:
            new += 1
        return new

    def _reserve(self, request: Request, count: int) -> list[tuple[int, int]]:
        """Take the blocks for `count` more tokens; returns the copy that a shared last block needs."""
        copies = []
        tail = self._shared_tail(request)
        if tail is not None:
            [own] = self.pool.allocate(1)
            shared = request.blocks[tail]
            copies.append((shared, own))
            self.pool.release([shared])
            request.blocks[tail] = own
        new = self._blocks_for(request.computed + count) - len(request.blocks)
        request.blocks += self.pool.allocate(new)
        return copies

    def _shared_tail(self, request: Request) -> int | None:
        """Index of the half-full block that would be written next, if others own it too."""
        at = request.computed // self.pool.block_size
        if at < len(request.blocks) and self.pool.owners(request.blocks[at]) > 1:
            return at
        return None

    def _seal(self, work: Work) -> None:
        """Make known the blocks that this work has filled."""
        request = work.request
        size = self.pool.block_size
        for i in range(work.start // size, request.computed // size):
            digest = digest_of(i, request.tokens, size, request.digests)
            self.pool.seal(request.blocks[i], digest)

    def _cut_blocks(self, request: Request) -> None:
        """Give back the blocks that only wrong guesses were written to."""
        keep = self._blocks_for(request.computed)
        self.pool.release(request.blocks[keep:])
        del request.blocks[keep:]

    def _preempt(self, request: Request) -> None:
        self._give_back(request)
        request.status = "waiting"
        request.preemptions += 1
        self.running.remove(request)
        insort(self.waiting, request, key=_AGE)

    def _give_back(self, request: Request) -> None:
        self.pool.release(request.blocks)
        request.blocks = []
        request.computed = 0

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.pool.block_size)
