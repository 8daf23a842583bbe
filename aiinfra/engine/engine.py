"""The loop: plan a step, run it, choose tokens, hand them out. Requests come and go between steps.

    add ──> waiting ──> │ plan ─> run ─> sample ─> commit │ ──> StepRecord: who ran, what was made, its cost
    abort ──────────────┴─────────────────────────────────┘

Token ids in, token ids out: text, stop strings and chat templates are `llm.py`'s. What becomes of tokens is
told in `answers.py`, and how a step is asked for before the last one was read in `ahead.py`. A request that
fails (logits that are not numbers) ends with finish_reason "error"; the engine goes on. Notebook 12.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiinfra.device import free_bytes, synchronize
from aiinfra.engine.ahead import OneAhead
from aiinfra.engine.answers import Answers, Asked, Clock
from aiinfra.engine.blocks import BlockPool
from aiinfra.engine.graphs import decode_graphs
from aiinfra.engine.options import EngineOptions
from aiinfra.engine.record import StepRecord
from aiinfra.engine.request import Request, check_ids
from aiinfra.engine.runner import Decode, PagedCache, Runner
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.engine.scheduler import Scheduler
from aiinfra.engine.speculative import as_proposer
from aiinfra.model import Transformer


RunnerMaker = Callable[[Transformer, PagedCache, Decode | None], Runner]


class Engine:
    """Serves many requests on one model, over a paged cache. options: see `EngineOptions`; `self.options`
    has them with nothing left open. Raises ValueError for what makes no sense and TypeError for an unknown
    one.

    A model may be a share of one that several processes hold: `make_runner` then gives a Runner that has the
    others run what it runs."""

    def __init__(self, model: Transformer, *, make_runner: RunnerMaker = Runner, **options: Any) -> None:
        asked = EngineOptions(**options)
        block_bytes = PagedCache.block_bytes(model.config, asked.block_size, model.dtype)
        self.model = model
        self.options = asked.resolve(
            context=model.config.max_position_embeddings,
            block_bytes=block_bytes,
            free_bytes=free_bytes(model.device),
        )
        chosen = self.options
        self.proposer = as_proposer(chosen.speculative, model.config.vocab_size)
        self.pool = BlockPool(chosen.cache_bytes // block_bytes, chosen.block_size, chosen.prefix_caching)
        self.scheduler = Scheduler(
            self.pool,
            token_budget=chosen.token_budget,
            max_running=chosen.max_running,
            mode=chosen.mode,
            chunked=chosen.chunked,
            chunk_tokens=chosen.chunk_tokens,
        )
        cache = PagedCache(
            model.config, self.pool.total, self.pool.block_size, model.dtype, model.device)
        self.runner = make_runner(model, cache, self._decode_graphs(cache))
        self.answers = Answers(self.scheduler, self.proposer)
        self.ahead = OneAhead(self.answers, self.runner)

    def _decode_graphs(self, cache: PagedCache) -> Decode | None:
        if not self.options.cuda_graphs:
            return None
        longest = min(self.pool.total, -(-self.max_model_len // cache.block_size))
        scheduler = self.scheduler
        guesses = 0 if self.proposer is None else self.proposer.k
        return decode_graphs(
            self.model, cache, scheduler.max_running, longest, scheduler.token_budget, guesses)

    @property
    def max_model_len(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return self.options.max_model_len

    def add(self, request_id: str, prompt: list[int], params: SamplingParams, eos_ids: tuple[int, ...] = (),
            priority: int = 0) -> None:
        """Queue a request; lower priority numbers go first. Raises ValueError, and queues nothing, for an id
        that is in use, a prompt that is empty or has unknown tokens, and what can never fit. Any n fits if
        one answer does: with few blocks or places, the answers take turns."""
        if request_id in self.answers.asked:
            raise ValueError(f"request id {request_id!r} is in use: choose another, or wait until it has "
                             "finished.")
        # `LLM` has asked this of all prompts of a call, before any is run; here it is asked of everybody
        # else's.
        check_ids(prompt, self.model.config.vocab_size)
        if params.max_tokens is None:
            params = params.within(max(1, self.max_model_len - len(prompt)))
        most = len(prompt) + params.max_tokens
        if most > self.max_model_len:
            raise ValueError(f"request {request_id} may grow to {most:,} tokens; the context is "
                             f"{self.max_model_len:,}. Lower max_tokens or shorten the prompt.")
        if not isinstance(priority, int):
            raise ValueError(f"priority={priority!r}; it must be a whole number: the lowest goes first.")
        stop_ids = params.stop_ids(eos_ids, self.model.config.vocab_size)
        request = Request(id=request_id, tokens=prompt, max_tokens=params.max_tokens, priority=priority)
        self.answers.add(Asked(request_id, params, stop_ids), request)

    def abort(self, request_id: str, index: int | None = None) -> bool:
        """Drop a request and free its blocks; with `index`, only this answer of it, once it has a token.
        False if there is none such (any more). As `add`, between steps: another thread must not call it
        while one runs."""
        asked = self.answers.asked.get(request_id)
        if asked is None:
            return False
        dropped = list(asked.answers.values())
        if index is not None:
            dropped = [answer for answer in dropped if answer.index == index and answer.request.made]
        with self._all_or_nothing():
            for answer in dropped:
                self.answers.finish(answer)
            self.ahead.drop_if_useless()
        return bool(dropped)

    @property
    def unfinished(self) -> int:
        """Requests that are waiting or running."""
        return len(self.answers.asked)

    @property
    def idle(self) -> bool:
        """True if nothing is left anywhere: no request, no answer, no step in flight, no block that is
        owned."""
        somebody = self.answers.asked or self.answers.by_request
        queued = self.scheduler.waiting or self.scheduler.running
        return not (somebody or queued or self.ahead.flight or self.pool.used)

    def stream(self) -> Iterator[StepRecord]:
        """Step, yielding every record with what was `made`, until nothing is unfinished. Requests may be
        added and aborted between steps."""
        while self.unfinished:
            yield self.step()

    def step(self) -> StepRecord:
        """Run one step over whoever is there. If it is broken off, by Ctrl-C or an error, all start again
        from the tokens that were handed out; only who had just ended has lost the last one."""
        with self._all_or_nothing():
            return self.ahead.step() if self.options.overlap else self._step()

    def _step(self) -> StepRecord:
        """Plan, run, sample, commit."""
        begun = time.perf_counter()
        plan = self.answers.plan()
        planned = time.perf_counter()
        logits = self.runner.run(plan) if plan.work else None
        synchronize(self.model.device)
        ran = time.perf_counter()
        drawn = self.answers.draw(plan, logits)
        made = self.answers.take(drawn, drawn.read())
        self.answers.commit(plan, made)
        clock = Clock(begun=begun, planned=planned, ran=ran, ended=time.perf_counter())
        return self.answers.hand_out(plan, drawn, made, clock)

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.ahead.flight = None
            self.answers.start_again()
            raise
