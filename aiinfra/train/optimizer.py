"""AdamW for the right parameters, and how large its steps are over time.

    learning rate   peak ┤   ╭───╮                warm-up: linear, so that the first gradients, which point
                         │  ╱     ╲___            anywhere, do little harm
                   floor ┤ ╱           ╲_____     then half a cosine down to `floor` of the peak
                         └─┴──────────────────►
                         warm-up          steps

The schedule is a function of the step and of nothing else: a resumed run cannot be one step off. Notebook 04.
"""

import math
from typing import Protocol

import torch
from torch import nn

from aiinfra.config import config


class Rates(Protocol):
    """Any schedule: what the loop asks before each step."""

    def learning_rate(self, step: int) -> float:
        """Of step 1, 2, …"""
        ...


@config
class Schedule:
    """The learning rate of each step: warm-up to `peak`, then a cosine down to `floor * peak` at the last
    step."""

    peak: float
    steps: int                     # of the whole training
    warmup: int = 0                # steps until the peak is reached
    floor: float = 0.1             # share of the peak that the last step still has

    def __post_init__(self) -> None:
        if not self.peak > 0 or self.steps < 1 or self.warmup < 0:
            given = f"peak={self.peak}, steps={self.steps}, warmup={self.warmup}"
            raise ValueError(f"{given}: peak must be above 0, steps at least 1, warmup at least 0.")

    def learning_rate(self, step: int) -> float:
        """Of step 1, 2, …; the last one's is the floor's, and it stays there beyond.

        This is transformers' `get_cosine_schedule_with_warmup` one step ahead: its first step has a rate of 0
        and learns nothing.
        """
        if step < self.warmup:
            return self.peak * step / self.warmup
        falling = max(1, self.steps - self.warmup)
        gone = min(1.0, (step - self.warmup) / falling)
        cosine = 0.5 * (1 + math.cos(math.pi * gone))
        return self.peak * (self.floor + (1 - self.floor) * cosine)


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """AdamW's parameter groups: matrices shrink, vectors (norms and biases) do not.

    A norm's scale near zero would silence its layer, so pulling it there helps nobody. A table that is input
    and output at once (tied) is one parameter: it stands in one group, once.
    """
    matrices, vectors = [], []
    for parameter in model.parameters():                # a shared one comes once
        if parameter.requires_grad:
            group = matrices if parameter.ndim >= 2 else vectors
            group.append(parameter)
    groups = [{"params": matrices, "weight_decay": weight_decay},
              {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def adamw(model: nn.Module, weight_decay: float = 0.1, betas: tuple[float, float] = (0.9, 0.95),
          eps: float = 1e-8) -> torch.optim.AdamW:
    """AdamW over the decay groups of `model`; the schedule sets its learning rate at every step.

    Raises ValueError for weights that are not float32: a step is often smaller than the distance between two
    neighbouring bfloat16 numbers, and would be lost. Loshchilov and Hutter 2019, arXiv 1711.05101.
    """
    narrow = [name for name, parameter in model.named_parameters() if parameter.dtype.itemsize < 4]
    if narrow:
        raise ValueError(f"parameter {narrow[0]} has fewer than 32 bits, and small steps would be lost. "
                         "Train float32 weights, and pass autocast=torch.bfloat16 to compute in 16 bits.")
    # lr is only a place holder until the schedule sets it
    return torch.optim.AdamW(decay_groups(model, weight_decay), lr=0.0, betas=betas, eps=eps, fused=True)
