"""The loop: micro-batches in, one record a step out. It prints nothing and saves nothing.

    one step   micro-batch  forward  backward ─┐
               micro-batch  forward  backward ─┼─ gradients add up ─► norm, clip ─► optimizer ─► TrainStep
               micro-batch  forward  backward ─┘

Each micro-batch's loss is divided by the number of valid tokens of the *whole* step, which is counted before
the first forward. So 8 micro-batches of 4 rows give the gradient of 32 rows at once, however unevenly the
valid tokens are spread; a mean of means would weigh a token by how empty its micro-batch is. Notebook 04.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from aiinfra.device import peak_bytes
from aiinfra.kernels.cross_entropy import linear_cross_entropy
from aiinfra.model.balance import begin_step, end_step
from aiinfra.model.transformer import Transformer
from aiinfra.train.clock import StepClock
from aiinfra.train.data import IGNORED, MicroBatch
from aiinfra.train.optimizer import Rates
from aiinfra.train.step import Diverged, TrainStep


class Batch(Protocol):
    """What the loop asks of a micro-batch; the rest is between it and the loss."""

    valid: int                     # targets that are learnt from
    text_bytes: int                # bytes of text that they stand for; 0 if it is no text

    def to(self, device: torch.device | str) -> "Batch":
        """The same on `device`."""
        ...


# loss(model, batch, total): a scalar to differentiate; the sum over the batch's valid targets, over `total`
Loss = Callable[[Any, Any, int], Tensor]


def next_token_loss(model: Transformer, batch: MicroBatch, total: int) -> Tensor:
    """Cross-entropy of what follows each token, summed and divided by `total`; the logits never exist all at
    once."""
    hidden = model.hidden(batch.tokens, batch.positions, batch.documents)            # [N, D]
    with record_function("loss"):                                                    # its name in a profile
        return linear_cross_entropy(hidden, model.lm_head.weight, batch.targets, IGNORED, total=total)


class Ranks(Protocol):
    """The processes that take a step together, each with micro-batches of its own. All call these in the same
    order, those without a valid token too."""

    def total(self, value: float) -> float:
        """The sum of a number over all ranks."""
        ...

    def add_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Replace each gradient by its sum over all ranks; a rank that has none adds nothing."""
        ...

    def clip(self, parameters: list[nn.Parameter], limit: float) -> float:
        """Scale the added gradients so that the norm of all of them, on whatever rank they are, is at most
        `limit`; returns the norm before."""
        ...

    def add_counts(self, counts: Tensor) -> None:
        """Replace counts by their sums over the ranks that have the same layers and see other tokens. Called
        for a mixture of experts that is balanced by a bias."""
        ...


class OneRank:
    """There are no others."""

    def total(self, value: float) -> float:
        """It is all there is."""
        return value

    def add_gradients(self, parameters: list[nn.Parameter]) -> None:
        """They are whole."""

    def clip(self, parameters: list[nn.Parameter], limit: float) -> float:
        """PyTorch does it."""
        return float(nn.utils.clip_grad_norm_(parameters, limit))

    def add_counts(self, counts: Tensor) -> None:
        """They are all."""


# What a block of work belongs to, by the name of a phase: `with phase("forward"): …`
Phases = Callable[[str], AbstractContextManager]


class Passes(Protocol):
    """How the micro-batches of one step go through the model. A pipeline interleaves them."""

    def __call__(self, window: list[Any], total: int, phase: Phases) -> float:
        """Add each micro-batch's part to every gradient; returns the sum of their losses. Processes that take
        the same micro-batches through parts of one model all return the same."""
        ...


@dataclass(frozen=True)
class OneByOne:
    """Each micro-batch forward and backward before the next one. Those without a valid token go too: other
    ranks may wait for what is exchanged on the way."""

    model: nn.Module
    loss: Loss = next_token_loss
    autocast: torch.dtype | None = None

    def __call__(self, window: list[Any], total: int, phase: Phases) -> float:
        """As `Passes`."""
        return float(sum(self.add_gradients(batch, total, phase) for batch in window))

    def add_gradients(self, batch: Any, total: int, phase: Phases) -> Tensor:
        """Add this micro-batch's part to every gradient; returns its part of the loss."""
        device = next(self.model.parameters()).device
        with phase("data"):
            batch = batch.to(device)
        with phase("forward"), precision(device, self.autocast):
            loss = self.loss(self.model, batch, total)
        with phase("backward"):
            loss.backward()
        return loss.detach()


def precision(device: torch.device, autocast: torch.dtype | None) -> AbstractContextManager:
    """The block computes in this dtype; None: in that of the weights."""
    if autocast is None:
        return nullcontext()
    return torch.autocast(device.type, autocast)


@dataclass(frozen=True)
class Limits:
    """When a step is not taken: beyond these, and always where loss or norm is not a finite number."""

    loss: float = math.inf
    gradient_norm: float = math.inf


def loop(model: nn.Module, batches: Iterable[Batch], optimizer: torch.optim.Optimizer, schedule: Rates, *,
         accumulate: int = 1, clip_norm: float | None = 1.0, loss: Loss = next_token_loss,
         autocast: torch.dtype | None = None, limits: Limits = Limits(), ranks: Ranks = OneRank(),
         passes: Passes | None = None, steps_done: int = 0, tokens_seen: int = 0,
         flops: Callable[[Batch], float] | None = None,
         peak_flops: float | None = None) -> Iterator[TrainStep]:
    """Train `model` in place, a step for each record that is asked for, until `batches` end.

    accumulate: micro-batches a step; the last step has fewer if the batches run out. Exactly so many are
    taken before a step is computed, so that whatever counts the batches' position is right when a record is
    in hand. clip_norm: the longest that a step's whole gradient may be. autocast: compute in this dtype, keep
    float32 weights. ranks: who else takes the same steps; loss, norm and tokens are those of all.
    passes: how a step's micro-batches go through the model, in place of `loss` and `autocast`, of which it
    has its own; None: one by one. steps_done, tokens_seen: where a resumed run stands. flops: the model's
    FLOPs for a micro-batch, forward and backward, for MFU. Raises Diverged, before the update, for a loss or
    a norm that is not finite or beyond `limits`.
    """
    if accumulate < 1:
        raise ValueError(f"accumulate={accumulate}; a step needs at least 1 micro-batch.")
    if passes is None:
        passes = OneByOne(model, loss, autocast)
    elif autocast is not None:
        raise ValueError("passes compute in a dtype of their own: give autocast to them, not to the loop.")
    work = _Work(model, optimizer, passes, clip_norm, limits, ranks)
    source = iter(batches)
    step = steps_done
    model.train()
    while True:
        clock = StepClock(work.device)
        with clock.phase("data"):
            window = list(islice(source, accumulate))
        if not window:
            return
        step += 1
        learning_rate = schedule.learning_rate(step)
        done = work.step(step, window, learning_rate, clock)
        clock.stop()
        tokens_seen += done.tokens
        yield TrainStep(
            step=step,
            loss=done.loss,
            bits_per_byte=work.bits_per_byte(done, window),
            learning_rate=learning_rate,
            gradient_norm=done.gradient_norm,
            tokens=done.tokens,
            tokens_seen=tokens_seen,
            seconds=clock.seconds,
            phases=clock.phases,
            peak_bytes=peak_bytes(work.device),
            flops=None if flops is None else sum(map(flops, window)),
            peak_flops=peak_flops)


@dataclass(frozen=True)
class _Done:
    loss: float
    gradient_norm: float
    tokens: int


class _Work:
    """What stays the same from step to step."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, passes: Passes,
                 clip_norm: float | None, limits: Limits, ranks: Ranks) -> None:
        self.model = model
        self.optimizer = optimizer
        self.passes = passes
        self.limits = limits
        self.ranks = ranks
        self.clip_norm = math.inf if clip_norm is None else clip_norm
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.device = self.parameters[0].device

    def step(self, step: int, window: list[Batch], learning_rate: float, clock: StepClock) -> _Done:
        """Forward and backward of all micro-batches, then one update."""
        total = int(self.ranks.total(sum(batch.valid for batch in window)))
        if not total:                                      # 0 / 0: there is nothing to learn from
            return _Done(loss=math.nan, gradient_norm=0.0, tokens=0)
        self.optimizer.zero_grad()
        begin_step(self.model, total)
        loss = self.passes(window, total, clock.phase)
        with clock.phase("optimizer"):
            self.ranks.add_gradients(self.parameters)
            norm = self.ranks.clip(self.parameters, self.clip_norm)
            done = _Done(loss=self.ranks.total(loss), gradient_norm=norm, tokens=total)
            self._check(step, done)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.step()
            end_step(self.model, self.ranks.add_counts)
        return done

    def bits_per_byte(self, done: _Done, window: list[Batch]) -> float | None:
        """The bits that it takes to write the step's text, ends of texts included, for each byte of it."""
        text_bytes = self.ranks.total(sum(batch.text_bytes for batch in window))
        if not text_bytes:
            return None
        return done.loss * done.tokens / math.log(2) / text_bytes

    def _check(self, step: int, done: _Done) -> None:
        limits = self.limits
        if not math.isfinite(done.loss) or not math.isfinite(done.gradient_norm):
            raise Diverged(step, done.loss, done.gradient_norm, "one of them is not a finite number")
        if done.loss > limits.loss:
            raise Diverged(step, done.loss, done.gradient_norm, f"the loss may be at most {limits.loss:.4g}")
        if done.gradient_norm > limits.gradient_norm:
            allowed = f"the norm may be at most {limits.gradient_norm:.4g}"
            raise Diverged(step, done.loss, done.gradient_norm, allowed)
