"""Histories of given lengths, and what HSTU attention makes of them: output and five gradients."""

import torch

from aiinfra.kernels.hstu_attention import hstu_attention, hstu_reference
from tests.kernels.kernel_checks import DEVICE


class SampleHistories:
    """Unit-scale inputs: scores of several units, where SiLU is neither s / 2 nor s."""

    def __init__(self, lengths, heads=2, size=32, value_size=32, max_len=None, per_head=True, seed=0):
        g = torch.Generator(DEVICE).manual_seed(seed)
        total, self.max_len = sum(lengths), max_len or max(lengths)
        self.q, self.k = torch.randn(2, total, heads, size, generator=g)
        self.v = torch.randn(total, heads, value_size, generator=g)
        self.dy = torch.randn(total, heads, value_size, generator=g)
        self.offsets = torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32)
        gaps = torch.randn(total, generator=g, dtype=torch.float64).mul(4).exp()           # seconds to months
        self.times = 1_700_000_000 + gaps.cumsum(0).long()
        lead = (heads,) if per_head else ()
        self.position = torch.randn(*lead, 2 * self.max_len + 1, generator=g)              # M = max_len + 1
        self.time = torch.randn(*lead, 129, generator=g)
        self.alpha = 0.3

    def tensors(self, dtype):
        return [x.detach().to(dtype).requires_grad_() for x in (self.q, self.k, self.v, self.position,
                                                                self.time)]

    def run(self, function, offsets, dtype=torch.float32, **options):
        """Output and the five gradients."""
        q, k, v, position, time = inputs = self.tensors(dtype)
        y = function(q, k, v, offsets, self.times, position, time, max_len=self.max_len, alpha=self.alpha,
                     **options)
        return y.detach(), *torch.autograd.grad(y, inputs, self.dy.to(dtype))

    def fused(self):
        return self.run(hstu_attention, self.offsets, backend="triton")

    def formula(self):
        return self.run(hstu_reference, self.offsets.tolist(), torch.float64)


NAMES = ("y", "dq", "dk", "dv", "d_position", "d_time")
