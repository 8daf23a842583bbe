"""Which limit binds, and what it predicts.

    seconds ≥ max(flops / peak FLOP/s, bytes / bandwidth)

    FLOP/s │      ________ peak            left of the ridge: bound by memory
           │    /                          right of it:       bound by arithmetic
           │  /  slope = bandwidth
           └──────┴─────── FLOPs per byte
                ridge

A floor, not a forecast: what you measure is slower, and the distance is what there is to win. Source:
Williams, Waterman and Patterson 2009. Notebook 00.
"""

from dataclasses import dataclass

import torch

from aiinfra.perf.cost import Cost
from aiinfra.perf.hardware import Hardware


@dataclass(frozen=True)
class LeastTime:
    """The least time that some work can take, and why."""

    seconds: float
    compute_seconds: float
    memory_seconds: float

    @property
    def bound(self) -> str:
        """"memory" or "compute": which of the two takes longer."""
        return "memory" if self.memory_seconds >= self.compute_seconds else "compute"


def least_time(cost: Cost, hardware: Hardware, dtype: torch.dtype = torch.float32) -> LeastTime:
    """The least seconds for `cost` on `hardware`."""
    compute = cost.flops / hardware.peak(dtype)
    memory = cost.bytes / hardware.bandwidth
    return LeastTime(max(compute, memory), compute, memory)


def ridge(hardware: Hardware, dtype: torch.dtype = torch.float32) -> float:
    """FLOPs per byte at which the two limits meet."""
    return hardware.peak(dtype) / hardware.bandwidth


def attainable(intensity: float, hardware: Hardware, dtype: torch.dtype = torch.float32) -> float:
    """FLOP/s that work of this intensity (FLOPs per byte) can reach at most."""
    return min(hardware.peak(dtype), intensity * hardware.bandwidth)


def token_seconds(weight_bytes: float, bandwidth: float, kv_bytes: float = 0.0) -> float:
    """The least time for one decoded token at batch 1: every weight, and the cache, is read once."""
    return (weight_bytes + kv_bytes) / bandwidth
