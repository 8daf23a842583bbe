"""Even load among experts: a loss that joins in on the way back, and a bias that moves once a step.

    forward     weights ──────────────────────────────► the layer's output ─► … ─► loss
    backward    d weights ◄─ joined: d balance loss ◄── d output ◄──────── … ◄──── 1
                             └─ and the step's counts grow

So a pipeline passes nothing extra, a model without experts is asked for nothing, and a forward pass that is
done again (activation checkpointing) is counted once: what is counted, is counted where gradients are made.

The loss of a micro-batch is coefficient · E · Σ share of tokens · mean score, over the experts; its tokens
weigh as much as in the step's whole loss: it is divided by the step's tokens. Fedus et al. 2021 (Switch
Transformers), arXiv 2101.03961, for each layer by itself. The bias: DeepSeek-AI 2024 (DeepSeek-V3), arXiv
2412.19437. Notebook 17.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


class LoadBalance:
    """What a router keeps of a training step: nothing while it serves."""

    def __init__(self, experts: int, coefficient: float) -> None:
        self.experts = experts
        self.coefficient = coefficient
        self.step_tokens: int | None = None                 # of all micro-batches and ranks; None: no step
        self.counts: Tensor | None = None                   # int64 [E], of this rank's backward passes so far
        # Adds a tensor up over the ranks that have other parts of the same micro-batch; None: there are none.
        self.add_parts: Callable[[Tensor], Tensor] | None = None

    def join(self, weights: Tensor, scores: Tensor, chosen: Tensor) -> Tensor:
        """weights [N, k] as they are, with the loss behind them. scores [N, E], chosen int64 [N, k]."""
        counts = self.count(chosen)
        loss = self.loss(scores, counts, chosen.shape[1])
        return _JoinBackward.apply(weights, loss, self, counts)

    def count(self, chosen: Tensor) -> Tensor:
        """How often each expert was chosen: int64 [E]. Unlike torch.bincount, it waits for no device."""
        flat = chosen.flatten()
        counts = torch.zeros(self.experts, dtype=torch.int64, device=chosen.device)
        return counts.scatter_add_(0, flat, torch.ones_like(flat))

    def loss(self, scores: Tensor, counts: Tensor, per_token: int) -> Tensor:
        """The balance loss of tokens with these scores [N, E], whose choices are counted, as a part of the
        step's. per_token: k."""
        if self.add_parts is not None and self.coefficient:
            counts = self.add_parts(counts)
        share = counts * per_token / counts.sum().clamp(min=1)                 # [E], adds up to k
        even = scores / scores.sum(-1, keepdim=True)                           # [N, E], rows add up to 1
        divisor = len(scores) if self.step_tokens is None else self.step_tokens
        factor = self.coefficient * self.experts / max(divisor, 1)
        return factor * (share.to(scores.dtype) * even.sum(0)).sum()

    def add(self, counts: Tensor) -> None:
        """A backward pass was made over tokens that chose so."""
        if self.counts is None:
            self.counts = torch.zeros_like(counts)
        self.counts += counts


class _JoinBackward(torch.autograd.Function):
    """The first argument, unchanged; what stands beside it takes part in the backward pass."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, loss: Tensor, balance: LoadBalance, counts: Tensor) -> Tensor:
        ctx.balance, ctx.counts = balance, counts
        ctx.of_loss = torch.ones_like(loss)
        return weights.view_as(weights)

    @staticmethod
    def backward(ctx: Any, dweights: Tensor) -> tuple[Tensor | None, ...]:
        ctx.balance.add(ctx.counts)
        return dweights, ctx.of_loss, None, None


def routers_of(model: nn.Module) -> Iterator[Any]:
    """Every router in the model: the modules that keep a `LoadBalance`."""
    for module in model.modules():
        if isinstance(getattr(module, "balance", None), LoadBalance):
            yield module


def begin_step(model: nn.Module, tokens: int) -> None:
    """Before the first forward pass of a training step: how many valid tokens all its micro-batches have."""
    for router in routers_of(model):
        router.balance.step_tokens = tokens
        router.balance.counts = None


def end_step(model: nn.Module, add_counts: Callable[[Tensor], None]) -> None:
    """After the update: move every router's bias, by the step's counts. add_counts: replaces a tensor by its
    sum over the ranks that see other tokens; all of them call this together."""
    routers = [router for router in routers_of(model) if router.bias is not None]
    if not routers:
        return
    counts = torch.stack([_counts_of(router) for router in routers])           # int64 [routers, E]
    add_counts(counts)
    for router, of_router in zip(routers, counts):
        move_bias(router.bias, of_router, router.config.bias_update_speed)
        router.balance.step_tokens = None


def move_bias(bias: Tensor, counts: Tensor, speed: float) -> None:
    """One step up for experts with less than the mean load, one step down for those with more, in place."""
    mean = counts.double().mean()
    bias += speed * torch.sign(mean - counts).to(bias.dtype)


def _counts_of(router: Any) -> Tensor:
    counts = router.balance.counts
    if counts is None:                                       # this rank had no backward pass
        counts = torch.zeros(router.balance.experts, dtype=torch.int64, device=router.bias.device)
    return counts
