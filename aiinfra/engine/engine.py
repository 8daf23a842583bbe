"""The loop: plan a step, run it, choose tokens, hand them out. Requests come and go between steps.

    add ──> waiting ──> │ plan ─> run ─> sample ─> commit │ ──> StepRecord: who ran, what was made, what it cost
    abort ──────────────┴──────────────────────────────────┘

A request for n answers runs its prompt once. Its last row of logits is then drawn from n times, and every
answer goes on by itself, on the same blocks until it writes into one:

    prompt ──> │ row of logits ├─> a        a#1, a#2 in the records
                               ├─> a#1
                               └─> a#2

With `speculative`, a decode runs guesses behind its token, and one step may make several tokens for a request.

On a GPU the engine runs one step ahead (`overlap`): while step n runs, step n + 1 is planned and asked for with n's
tokens UNKNOWN, which only the GPU has to know. Who turns out to have ended at n has run once for nothing.

    CPU   plan n │ plan n+1 │ read n, hand out │ plan n+2 │ read n+1 …
    GPU          │ step n ········· │ step n+1 ·········· │ step n+2 …

Token ids in, token ids out: text, stop strings and chat templates are `llm.py`'s. A request that fails
(logits that are not numbers) ends with finish_reason "error"; the engine goes on. Notebook 12.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from aiinfra.device import free_bytes, synchronize, to_device
from aiinfra.engine.blocks import BlockPool
from aiinfra.engine.generate import check_ids, stop_ids_of
from aiinfra.engine.graphs import decode_graphs
from aiinfra.engine.record import Made, StepRecord
from aiinfra.engine.request import UNKNOWN, Request
from aiinfra.engine.runner import Newest, PagedCache, Runner
from aiinfra.engine.sampler import Choice, Draws, Sampler, start_choosing
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.engine.scheduler import Mode, Plan, Scheduler, Work
from aiinfra.engine.speculative import Proposer, accept, as_proposer, rows_ahead
from aiinfra.model import Transformer

_DEFAULT_CACHE_BYTES = 1 << 30
_CHUNK_ON_CPU = 128
_SHARE_OF_GPU = 0.8          # of what is free beside the weights; the rest is for activations and graphs


@dataclass(eq=False)
class _Job:
    """What the engine knows of a request beside what the scheduler does, and its unfinished answers."""

    id: str
    params: SamplingParams
    stop_ids: frozenset[int]
    answers: "dict[int, _Answer]"


@dataclass(eq=False)
class _Answer:
    """One of the n: a request of its own to the scheduler."""

    job: _Job
    index: int
    request: Request
    sampler: Sampler
    proposer: Proposer | None
    handed_out: int = 0                           # tokens that are in records which `step` has returned

    @property
    def wanted(self) -> bool:
        """False once it was aborted or has ended."""
        return self.job.answers.get(self.index) is self


@dataclass(eq=False)
class _Flight:
    """A step that was asked for, and whose tokens are on their way. `foreseen`: they are UNKNOWN to the requests."""

    plan: Plan
    takers: list[tuple[_Answer, list[int]]]       # who gets tokens, and the guesses that these may follow
    draws: Draws | None
    times: tuple[float, float, float | None]      # when: begun, planned, model done; None: at `_land`, with `overlap`
    foreseen: bool = False


class Engine:
    """Serves many requests on one model, over a paged cache of `cache_bytes` (default: most of what is free on a
    GPU; on a CPU 1 GiB, or what one full context of `max_model_len` tokens needs if that is more).

    chunk_tokens: None is 128 on a CPU, where more would delay those who decode, and all of `token_budget` on a GPU.
    speculative: "prompt_lookup", or a Proposer (its `k` is the most guesses for a request in a step). cuda_graphs:
    record decode steps and replay them (None: on a GPU); True on a CPU runs them padded as on a GPU, for tests.
    overlap: run one step ahead (None: on a GPU), which waits for its turn while somebody has a repetition penalty or
    guesses. Other arguments as `Scheduler`."""

    def __init__(self, model: Transformer, cache_bytes: int | None = None, block_size: int = 16,
                 max_model_len: int | None = None, token_budget: int = 512, max_running: int = 32, mode: Mode = "continuous",
                 chunked: bool = True, chunk_tokens: int | None = None, prefix_caching: bool = True,
                 speculative: str | Proposer | None = None, cuda_graphs: bool | None = None,
                 overlap: bool | None = None) -> None:
        context = model.config.max_position_embeddings
        self.max_model_len = context if max_model_len is None else max_model_len
        _check_kinds({"block_size": block_size, "max_model_len": self.max_model_len, "token_budget": token_budget, "max_running": max_running},
                     {"chunked": chunked, "prefix_caching": prefix_caching}, {"cuda_graphs": cuda_graphs, "overlap": overlap})
        if block_size < 1:
            raise ValueError(f"block_size={block_size}; it must be at least 1 (16 is usual).")
        if not 1 <= self.max_model_len <= context:
            raise ValueError(f"max_model_len={max_model_len}; the model's context is {context:,} tokens: choose 1 to {context:,}.")
        per_block = PagedCache.block_bytes(model.config, block_size, model.dtype)
        if cache_bytes is None:
            free = free_bytes(model.device)
            cache_bytes = max(_DEFAULT_CACHE_BYTES, per_block * -(-self.max_model_len // block_size)) if free is None else \
                int(_SHARE_OF_GPU * free)
        if not isinstance(cache_bytes, int) or cache_bytes < per_block:
            raise ValueError(f"cache_bytes={cache_bytes!r}; it must be a whole number, and one block of {block_size} tokens is "
                             f"{per_block:,} bytes. Give it more.")
        self.model, self.proposer = model, as_proposer(speculative, model.config.vocab_size)
        self.pool = BlockPool(cache_bytes // per_block, block_size, prefix_caching)
        if chunk_tokens is None and model.device.type == "cpu":
            chunk_tokens = _CHUNK_ON_CPU
        self.scheduler = Scheduler(self.pool, token_budget, max_running, mode, chunked, chunk_tokens)
        cache = PagedCache(model.config, self.pool.total, block_size, model.dtype, model.device)
        longest = min(self.pool.total, -(-self.max_model_len // block_size))
        self.runner = Runner(model, cache, decode_graphs(model, cache, self.scheduler.max_running, longest, cuda_graphs))
        self.overlap = model.device.type == "cuda" if overlap is None else overlap
        self._flight: _Flight | None = None                  # asked for ahead of its turn
        self._jobs: dict[str, _Job] = {}
        self._answers: dict[Request, _Answer] = {}           # those that the scheduler has

    def add(self, request_id: str, prompt: list[int], params: SamplingParams, eos_ids: tuple[int, ...] = (),
            priority: int = 0) -> None:
        """Queue a request; lower priority numbers go first. Raises ValueError, and queues nothing, for an id
        that is in use, a prompt that is empty or has unknown tokens, and what can never fit. Any n fits if one
        answer does: with few blocks or places, the answers take turns."""
        if request_id in self._jobs:
            raise ValueError(f"request id {request_id!r} is in use: choose another, or wait until it has finished.")
        check_ids(prompt, self.model.config.vocab_size)
        if (most := len(prompt) + params.max_tokens) > self.max_model_len:
            raise ValueError(f"request {request_id} may grow to {most:,} tokens; the context is {self.max_model_len:,}. "
                             "Lower max_tokens or shorten the prompt.")
        if not isinstance(priority, int):
            raise ValueError(f"priority={priority!r}; it must be a whole number: the lowest goes first.")
        job = _Job(request_id, params, stop_ids_of(params, eos_ids, self.model.config.vocab_size), {})
        first = self._answer(job, 0, Request(request_id, prompt, params.max_tokens, priority))
        try:
            self.scheduler.add(first.request, places=params.n)
            self._answers[first.request], self._jobs[request_id] = first, job
        except BaseException:                                # refused; or Ctrl-C, and nothing may be half there
            if first.request in self.scheduler.waiting:
                self.scheduler.finish(first.request)
            self._answers.pop(first.request, None), self._jobs.pop(request_id, None)
            raise

    def abort(self, request_id: str, index: int | None = None) -> bool:
        """Drop a request and free its blocks; with `index`, only this answer of it, once it has a token. False if
        there is none such (any more). As `add`, between steps: another thread must not call it while one runs."""
        job = self._jobs.get(request_id)
        if job is None:
            return False
        if index is None:
            dropped = list(job.answers.values())
        else:
            dropped = [a for a in job.answers.values() if a.index == index and a.request.made]
        with self._all_or_nothing():
            for answer in dropped:
                self._finish(answer)
        return bool(dropped)

    @property
    def unfinished(self) -> int:
        """Requests that are waiting or running."""
        return len(self._jobs)

    def stream(self) -> Iterator[StepRecord]:
        """Step, yielding every record with what was `made`, until nothing is unfinished. Requests may be added and
        aborted between steps."""
        while self.unfinished:
            yield self.step()

    def step(self) -> StepRecord:
        """Run one step over whoever is there. If it is broken off, by Ctrl-C or an error, all start again from the
        tokens that were handed out; only who had just ended has lost the last one."""
        with self._all_or_nothing():
            return self._step()

    def _step(self) -> StepRecord:
        begun = time.perf_counter()
        flight = self._flight or self._launch()
        self._flight = self._launch(flight) if self._foresee(flight) else None
        if self.overlap:
            flight.times = begun, time.perf_counter(), None
        record = self._land(flight)
        ahead = self._flight
        if ahead and (not self._jobs or not (ahead.plan.work or ahead.plan.preempted)):
            self._flight = None                              # all who ran have ended, or nobody did
        for answer, _ in flight.takers:
            answer.handed_out = answer.request.made
        return record

    def _launch(self, before: _Flight | None = None) -> _Flight:
        """Plan a step and ask for it; `before`: the one whose tokens it may need before we have them."""
        start = time.perf_counter()
        plan = self.scheduler.plan()
        if self.proposer is not None:
            plan = self.scheduler.guess(plan, self._propose)
        planned = time.perf_counter()
        newest = None
        if before is not None and before.draws is not None:
            newest = Newest(before.draws.ids, {answer.request: row for row, (answer, _) in enumerate(before.takers)})
        logits = self.runner.run(plan, newest) if plan.work else None
        if not self.overlap:
            synchronize(self.model.device)
        ran = time.perf_counter()
        return _Flight(plan, *self._draw(logits, [w for w in plan.work if w.last]), (start, planned, ran))

    def _foresee(self, flight: _Flight) -> bool:
        """Let every answer of the step have its token, UNKNOWN, so that the next one can be planned. False, and
        nothing changed, if that needs to know which."""
        takers = [answer for answer, _ in flight.takers if answer.wanted]
        if not self.overlap or not flight.plan.work or self.proposer is not None or any(
                answer.job.params.repetition_penalty != 1 for answer in takers):
            return False
        flight.foreseen = True
        self.scheduler.commit(flight.plan, {a.request: UNKNOWN for a in takers if a.request in self._answers}, seal=False)
        for answer in takers:
            if answer.request not in self._answers:
                self._branch(answer, UNKNOWN)
            answer.sampler.took(UNKNOWN)
        return True

    def _land(self, flight: _Flight) -> StepRecord:
        """Wait for the tokens, hand them out, and let go of whoever ended."""
        choices = iter(flight.draws.read() if flight.draws is not None else ())
        start, planned, ran = flight.times
        ran = ran or time.perf_counter()
        made = {}
        for answer, guesses in flight.takers:
            some = list(islice(choices, 1 + len(guesses)))
            if answer.wanted:
                made[answer] = _take(answer, guesses, some, answer.request.made - flight.foreseen)
        guessed = tuple((answer.request.id, len(guesses), _right(guesses, made[answer]))
                        for answer, guesses in flight.takers if guesses and answer in made)
        if flight.foreseen:
            self._reveal(flight.plan, made)
        else:
            self._settle(flight.plan, made)
        end = time.perf_counter()
        return StepRecord(
            tuple((w.request.id, w.start, w.count) for w in flight.plan.work), tuple(m for some in made.values() for m in some),
            tuple(r.id for r in flight.plan.admitted), tuple(r.id for r in flight.plan.preempted), len(self.scheduler.waiting),
            self.pool.free, self.pool.cached, self.pool.used, planned - start, ran - planned, end - ran, guessed)

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._start_again()
            raise

    def _start_again(self) -> None:
        """Forget half a step: what blocks hold is unknown, and answers that had only begun to branch off are gone."""
        self._flight = None
        for request, answer in self._answers.items():
            del request.tokens[request.prompt_tokens + answer.handed_out:]
        self._answers = {r: answer for r, answer in self._answers.items() if answer.index == 0 or r.made}
        self.scheduler.start_again(list(self._answers))
        for answer in self._answers.values():
            answer.sampler.rewind(answer.request.tokens, answer.request.made)
            answer.job.answers = {i: a for i, a in answer.job.answers.items() if a.request in self._answers}
        self._jobs = {answer.job.id: answer.job for answer in self._answers.values()}

    def _propose(self, request: Request, most: int) -> list[int]:
        proposer = self._answers[request].proposer
        k = min(most, proposer.k)
        return proposer.propose(request.tokens, k)[:k]

    def _draw(self, logits: torch.Tensor | None, work: list[Work]) -> tuple[list[tuple[_Answer, list[int]]], Draws | None]:
        """Begin to choose the next token of each work's request, or several if it had guesses, from its rows of logits
        [R, V]; n first tokens if its prompt was just read. Who gets them, and the choices, in that order."""
        takers, rows, row_of, row = [], [], [], 0
        for w in work:
            for answer in self._sharing(self._answers[w.request]):
                takers.append((answer, list(w.guesses)))
                rows += rows_ahead(answer.sampler, list(w.guesses), answer.job.stop_ids, answer.job.params.min_tokens)
                row_of += range(row, row + 1 + len(w.guesses))
            row += 1 + len(w.guesses)
        if not takers:
            return [], None
        return takers, start_choosing(
            logits if len(row_of) == row else logits.index_select(0, to_device(row_of, torch.int64, logits.device)), rows)

    def _sharing(self, answer: _Answer) -> list[_Answer]:
        """Whose next token comes from this answer's logits: its own, or all n when their prompt has just been read."""
        job, request = answer.job, answer.request
        if request.made or job.params.n == 1:
            return [answer]
        for index in range(1, job.params.n):
            self._answer(job, index, Request(f"{job.id}#{index}", request.prompt, request.max_tokens, request.priority))
        return list(job.answers.values())

    def _settle(self, plan: Plan, made: "dict[_Answer, list[Made]]") -> None:
        """Append the tokens, let the answers that have just begun run by themselves, and those that ended go."""
        for answer, some in made.items():
            if some[-1].finish_reason == "error":
                self._finish(answer, failed=True)
        made = {answer: some for answer, some in made.items() if some[-1].finish_reason != "error"}
        sound = {a.request: some for a, some in made.items() if a.request in self._answers}
        self.scheduler.commit(plan, {r: some[-1].token_id for r, some in sound.items()},
                              {r: len(some) - 1 for r, some in sound.items()})
        for answer, some in made.items():
            if answer.request not in self._answers and not some[-1].finish_reason:
                self._branch(answer, some[-1].token_id)
        for answer, some in made.items():
            for m in some:
                answer.sampler.took(m.token_id)
            if some[-1].finish_reason:
                self._finish(answer)

    def _reveal(self, plan: Plan, made: "dict[_Answer, list[Made]]") -> None:
        """Let the requests of a step that was foreseen know their tokens, and those that ended go."""
        for answer, [m] in made.items():
            if m.token_id is not None:
                answer.request.tokens[-1] = m.token_id
            else:
                self._finish(answer, failed=True)
        self.scheduler.seal(plan)                            # now that it is known whose blocks are sound
        for answer, [m] in made.items():
            if m.finish_reason and answer.wanted:
                self._finish(answer)

    def _branch(self, answer: _Answer, token: int) -> None:
        """Start an answer beside the first one: on its blocks if there is a place to run in, else in the queue."""
        parent, child = answer.job.answers[0].request, answer.request
        child.arrival = parent.arrival + answer.index        # before all who came later
        if len(self.scheduler.running) < self.scheduler.max_running:
            self.scheduler.fork(parent, child)
        else:
            self.scheduler.add(child)
        child.tokens = [*child.prompt, token]
        self._answers[child] = answer

    def _answer(self, job: _Job, index: int, request: Request) -> _Answer:
        job.answers[index] = _Answer(job, index, request, Sampler(job.params, request.tokens, index),
                                     None if self.proposer is None else self.proposer.fresh())
        return job.answers[index]

    def _finish(self, answer: _Answer, failed: bool = False) -> None:
        job = answer.job
        if self._answers.pop(answer.request, None):          # first: who is in there starts again if this is broken off
            self.scheduler.finish(answer.request, failed)
        del job.answers[answer.index]
        if not job.answers:
            del self._jobs[job.id]


def _check_kinds(whole: dict[str, Any], either: dict[str, Any], or_none: dict[str, Any]) -> None:
    for name, value in whole.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{name}={value!r}; it must be a whole number.")
    for name, value in {**either, **or_none}.items():
        if not isinstance(value, bool) and not (name in or_none and value is None):
            raise ValueError(f"{name}={value!r}; it must be True or False{', or None for what suits the device' * (name in or_none)}.")


def _take(answer: _Answer, guesses: list[int], choices: list[Choice], had: int) -> list[Made]:
    """What an answer that `had` so many tokens gets of the choices for its rows: up to the first that was guessed
    wrongly or ends it."""
    job, made = answer.job, []
    for token, logprobs in choices[:len(accept([c.token_id for c in choices], guesses, job.stop_ids))]:
        made.append(Made(job.id, token, _ending(answer, token, had + len(made) + 1), answer.index, logprobs))
    return made


def _ending(answer: _Answer, token: int | None, made: int) -> str | None:
    """Why an answer ends with this token, its `made`-th; None if it goes on."""
    if token is None:
        return "error"
    if token in answer.job.stop_ids:
        return "stop"
    return "length" if made >= answer.request.max_tokens else None


def _right(guesses: list[int], made: list[Made]) -> int:
    """How many of the guesses came true."""
    return sum(m.token_id == guess for m, guess in zip(made, guesses))
