"""The loop: plan a step, run it, choose tokens, hand them out. Requests come and go between steps.

    add ──> waiting ──> │ plan ─> run ─> sample ─> commit │ ──> StepRecord: who ran, what was made, what it cost
    abort ──────────────┴──────────────────────────────────┘

Token ids in, token ids out: text, stop strings and chat templates are `llm.py`'s. A request that fails
(logits that are not numbers) ends with finish_reason "error"; the engine goes on. Notebook 12.
"""

import time
from dataclasses import dataclass, field

import torch

from aiinfra.device import synchronize
from aiinfra.engine.blocks import BlockPool
from aiinfra.engine.generate import check_ids
from aiinfra.engine.request import Request
from aiinfra.engine.runner import PagedCache, Runner
from aiinfra.engine.sampler import Sampler
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.engine.scheduler import Mode, Scheduler
from aiinfra.model import Transformer

_DEFAULT_CACHE_BYTES = 1 << 30


@dataclass(frozen=True)
class Made:
    """A token made for a request, and why it was the last one, if it was: "stop", "length" or "error"."""

    request_id: str
    token_id: int | None
    finish_reason: str | None


@dataclass(frozen=True)
class StepRecord:
    """What one step did. Blocks are counted after it; the three times add up to the step's."""

    ran: tuple[tuple[str, int, int], ...]         # (request id, first token, tokens run)
    made: tuple[Made, ...]
    admitted: tuple[str, ...]
    preempted: tuple[str, ...]
    waiting: int
    free_blocks: int
    cached_blocks: int
    used_blocks: int
    plan_seconds: float
    model_seconds: float
    sample_seconds: float


@dataclass
class _Job:
    """What the engine knows of a request beside what the scheduler does."""

    request: Request
    params: SamplingParams
    stop_ids: frozenset[int]
    sampler: Sampler = field(repr=False)


class Engine:
    """Serves many requests on one model, over a paged cache of `cache_bytes` (default: 1 GiB, or what one
    full context of `max_model_len` tokens needs if that is more). Other arguments as `Scheduler`."""

    def __init__(self, model: Transformer, cache_bytes: int | None = None, block_size: int = 16,
                 max_model_len: int | None = None, token_budget: int = 512, max_running: int = 32, mode: Mode = "continuous", chunked: bool = True, prefix_caching: bool = True) -> None:
        if block_size < 1:
            raise ValueError(f"block_size={block_size}; it must be at least 1 (16 is usual).")
        per_block = PagedCache.block_bytes(model.config, block_size, model.dtype)
        if cache_bytes is None:
            context = max_model_len or model.config.max_position_embeddings
            cache_bytes = max(_DEFAULT_CACHE_BYTES, per_block * -(-context // block_size))
        if cache_bytes < per_block:
            raise ValueError(f"cache_bytes={cache_bytes:,}; one block of {block_size} tokens is {per_block:,} bytes. Give it more.")
        self.model = model
        self.pool = BlockPool(cache_bytes // per_block, block_size, prefix_caching)
        self.scheduler = Scheduler(self.pool, token_budget, max_running, mode, chunked)
        self.runner = Runner(model, PagedCache(model.config, self.pool.total, block_size, model.dtype, model.device))
        self._jobs: dict[str, _Job] = {}

    def add(self, request_id: str, prompt: list[int], params: SamplingParams, eos_ids: tuple[int, ...] = (),
            priority: int = 0) -> None:
        """Queue a request; lower priority numbers go first. Raises ValueError, and queues nothing, for an id
        that is in use, a prompt that is empty or has unknown tokens, and what can never fit."""
        if request_id in self._jobs:
            raise ValueError(f"request id {request_id!r} is in use: choose another, or wait until it has finished.")
        check_ids(prompt, self.model.config.vocab_size)
        request = Request(request_id, list(prompt), params.max_tokens, priority)
        stop_ids = frozenset(i for i in (*(() if params.ignore_eos else eos_ids), *params.stop_token_ids)
                             if i < self.model.config.vocab_size)
        job = _Job(request, params, stop_ids, Sampler(params, self.model.device))
        self.scheduler.add(request)
        self._jobs[request_id] = job

    def abort(self, request_id: str) -> bool:
        """Drop a request and free its blocks. False if there is none of that id (any more)."""
        job = self._jobs.pop(request_id, None)
        if job is None:
            return False
        self.scheduler.finish(job.request)
        return True

    @property
    def unfinished(self) -> int:
        """Requests that are waiting or running."""
        return len(self._jobs)

    def step(self) -> StepRecord:
        """Run one step over whoever is there."""
        start = time.perf_counter()
        plan = self.scheduler.plan()
        planned = time.perf_counter()
        logits = self.runner.run(plan) if plan.work else None
        synchronize(self.model.device)
        ran = time.perf_counter()
        made = self._sample(logits, [w.request for w in plan.work if w.last])
        self.scheduler.commit(plan, {self._jobs[m.request_id].request: m.token_id for m in made if m.token_id is not None})
        for m in made:
            if m.finish_reason:
                self.abort(m.request_id)
        end = time.perf_counter()
        return StepRecord(
            tuple((w.request.id, w.start, w.count) for w in plan.work), tuple(made), tuple(r.id for r in plan.admitted),
            tuple(r.id for r in plan.preempted), len(self.scheduler.waiting), self.pool.free, self.pool.cached, self.pool.used,
            planned - start, ran - planned, end - ran)

    @torch.inference_mode()
    def _sample(self, logits: torch.Tensor | None, requests: list[Request]) -> list[Made]:
        """The next token of each request, from its row of logits [R, V]."""
        if not requests:
            return []
        best, ids = logits.max(-1)                                    # all rows at once; NaN counts as the largest
        greedy, sound = ids.tolist(), torch.isfinite(best).tolist()
        made = []
        for row, request in enumerate(requests):
            job = self._jobs[request.id]
            if not sound[row]:
                made.append(Made(request.id, None, "error"))
                continue
            held = job.stop_ids if request.made < job.params.min_tokens else ()
            if job.params.greedy and greedy[row] not in held:
                token = greedy[row]
            else:
                allowed = logits[row]
                if held:
                    allowed = allowed.clone()
                    allowed[list(held)] = -torch.inf
                token = job.sampler(allowed)
            reason = "stop" if token in job.stop_ids else "length" if request.made + 1 == request.max_tokens else None
            made.append(Made(request.id, token, reason))
        return made
