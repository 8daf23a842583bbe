"""A model on several ranks that answers as one: rank 0 plans, all run.

    rank 0   requests ─ scheduler ─> plan ─> integers ─┬─ its heads ─┐
                                                       │  broadcast  ├─ sums over ranks ─> logits ─> sampler
    rank 1   waits ──────────────────────── integers ──┼─ its heads ─┤                        rank 0 only
    rank 2   waits ──────────────────────── integers ──┴─ its heads ─┘

Only integers travel: tokens, positions, slots, tables of blocks (`engine.runner.StepIntegers`). So the engine
is the one that one process has, and knows no ranks: it is given a runner that tells the others first. Seeds,
penalties, stop strings and prefixes in the cache are rank 0's affair alone.

Invariant: tokens are those of one process. A step is run by all ranks or the replica is down: who is lost is
named within seconds, by rank 0's `health` (pulse.py). Notebook 17.

    launch(run_on_ranks, 3, answer, "smollm2-135m")        from a cell; answer(llm) is what rank 0 does
    torchrun --nproc-per-node 3 script.py                  whose last line is run_on_ranks(answer)
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from aiinfra.checkpoint import DEFAULT_MODEL
from aiinfra.device import free_bytes
from aiinfra.engine.engine import Engine
from aiinfra.engine.llm import LLM, our_options
from aiinfra.engine.options import EngineOptions
from aiinfra.engine.runner import Decode, Newest, PagedCache, Runner, StepIntegers
from aiinfra.engine.scheduler import Plan
from aiinfra.model import Transformer
from aiinfra.parallel.inference import load_share
from aiinfra.parallel.launch import init_ranks, rank_device
from aiinfra.serve.pulse import Health, Pulse, RankLost

# Nobody may have a question for long; if somebody dies, pulse.py tells.
_PATIENT = timedelta(days=365)


class PlanLine:
    """How rank 0 tells the others: integers over the network, also where tensors travel between GPUs. All
    ranks make one together."""

    def __init__(self) -> None:
        self.group = dist.new_group(backend="gloo", timeout=_PATIENT)

    def tell(self, message: Any) -> None:
        """Rank 0: to all others."""
        dist.broadcast_object_list([message], src=0, group=self.group, device="cpu")

    def hear(self) -> Any:
        """The others: what rank 0 tells next, however long it takes."""
        heard = [None]
        dist.broadcast_object_list(heard, src=0, group=self.group, device="cpu")
        return heard[0]


class LeadingRunner(Runner):
    """Rank 0's: tells the others what is run, and runs it with them."""

    def __init__(self, model: Transformer, cache: PagedCache, decode: Decode | None = None, *,
                 line: PlanLine, pulse: Pulse) -> None:
        super().__init__(model, cache, decode)
        self.line = line
        self.pulse = pulse
        blocks = cache.k.shape[1]
        line.tell((blocks, cache.block_size))        # the others make their caches

    @torch.inference_mode()
    def run(self, plan: Plan, newest: Newest | None = None) -> Tensor:
        """See Runner. Raises RankLost, now and ever after, if a rank was lost."""
        self.pulse.check()
        step = StepIntegers.of(plan, self.cache.block_size)
        tokens = self._tensor(step.tokens)
        if newest is not None:
            newest.write(plan.work, tokens)
        with _interrupts_wait(), self._all_or_down():
            self.line.tell((step, newest is not None))
            if newest is not None:
                dist.broadcast(tokens, src=0)
            return self.compute(step, tokens)

    @contextmanager
    def _all_or_down(self) -> Iterator[None]:
        """A step that rank 0 breaks off leaves the others waiting in its middle: nobody can go on."""
        self.pulse.in_step = True
        try:
            yield
        except BaseException as error:
            self.pulse.in_step = False
            if isinstance(error, RuntimeError) and not self.pulse.who_is_lost().alive:
                raise RankLost(self.pulse.health.said) from error
            self.pulse.take_down(f"rank 0 broke off in the middle of a step ({error}). The replica is down; "
                                 "start all ranks again.")
            raise
        self.pulse.in_step = False


def run_on_ranks(use: Callable[[LLM], Any], model: str | Path = DEFAULT_MODEL, *,
                 dtype: str | torch.dtype | None = None, cache: str | Path | None = None,
                 max_model_len: int | None = None, quantization: str | None = None, seed: int | None = None,
                 patience_seconds: float = 5.0, **engine_options: Any) -> Any:
    """All ranks call it, under `launch` or `torchrun`: rank 0 returns use(llm), the others help and return
    None. Options as of `LLM`.

    llm.health tells if all ranks are there. Raises ValueError, before a weight is read, if the number of
    ranks does not divide the model's heads or feed-forward; RankLost if a rank is lost on the way.
    """
    options = our_options(engine_options)
    checked = EngineOptions(max_model_len=max_model_len, **options)
    if checked.cuda_graphs:
        raise ValueError("cuda_graphs=True: steps that several ranks run together are not recorded. Leave it "
                         "out.")
    if not dist.is_initialized():
        init_ranks({"model": str(model), "quantization": quantization})
    share, tokenizer = load_share(
        model, dtype=dtype, device=rank_device(), cache=cache, quantize=quantization)
    options |= {"cuda_graphs": False, "max_model_len": max_model_len}
    options["cache_bytes"] = _cache_bytes(share, checked)
    line = PlanLine()
    pulse = Pulse(patience_seconds)
    if dist.get_rank() > 0:
        _follow(share, line)
        _part(pulse)
        return None
    with _leading(line, pulse):
        make_runner = partial(LeadingRunner, line=line, pulse=pulse)
        llm = RankedLLM.around(Engine(share, make_runner=make_runner, **options), tokenizer, seed)
        llm.pulse = pulse
        return use(llm)


class RankedLLM(LLM):
    """An LLM whose model is on several ranks, rank 0's share of it here."""

    pulse: Pulse

    @property
    def health(self) -> Health:
        """Of the replica, at this moment."""
        return self.pulse.health


@contextmanager
def _leading(line: PlanLine, pulse: Pulse) -> Iterator[None]:
    """Whatever becomes of rank 0's work, the others end: told so, or, if somebody is lost, by their pulse.
    Raises RankLost then, whoever has noticed."""
    try:
        yield
    finally:
        if pulse.health.alive:
            line.tell(None)
            _part(pulse)
        else:
            pulse.stop()
    pulse.check()


def _follow(share: Transformer, line: PlanLine) -> None:
    """The other ranks: run what rank 0 tells, until it says that this is all."""
    made = line.hear()
    if made is None:                             # rank 0 has ended before it had an engine
        return
    blocks, block_size = made
    runner = Runner(share, PagedCache(share.config, blocks, block_size, share.dtype, share.device))
    while (message := line.hear()) is not None:
        step, waits = message
        tokens = torch.tensor(step.tokens, device=share.device)
        if waits:                                # some are known to rank 0's device only
            dist.broadcast(tokens, src=0)
        runner.compute(step, tokens)


def _part(pulse: Pulse) -> None:
    """The end, on all ranks: nobody goes before the last beat."""
    pulse.stop()
    dist.barrier()


def _cache_bytes(share: Transformer, options: EngineOptions) -> int | None:
    """As asked; on GPUs, where all must have as many blocks, of the memory that the fullest has left."""
    free = free_bytes(share.device)
    if options.cache_bytes is not None or free is None:
        return options.cache_bytes
    least = torch.tensor(free, device=share.device)
    dist.all_reduce(least, dist.ReduceOp.MIN)
    return int(options.gpu_memory_utilization * int(least))


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Ctrl-C waits until the step is done, which takes moments: broken off, it would leave the others in its
    middle."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple] = []
    before = signal.signal(signal.SIGINT, lambda *said: came.append(said))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came and callable(before):
        before(*came[0])
