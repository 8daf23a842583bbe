"""Sequences of given lengths without padding, and an attention's output with its gradients."""

import torch

from tests.kernels.kernel_checks import DEVICE


def packed(lengths_q, lengths_k, heads, kv_heads, size, dtype=torch.float32, seed=0):
    generator = torch.Generator(DEVICE).manual_seed(seed)
    def randn(lengths, count):
        return torch.randn(sum(lengths), count, size, generator=generator, dtype=torch.float64).to(dtype)
    starts = [torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32) for lengths in (lengths_q, lengths_k)]
    return randn(lengths_q, heads), randn(lengths_k, kv_heads), randn(lengths_k, kv_heads), *starts


def gradients(function, q, k, v, do, dtype):
    q, k, v = (x.detach().to(dtype).requires_grad_() for x in (q, k, v))
    out = function(q, k, v)
    return out.detach(), *torch.autograd.grad(out, (q, k, v), do.to(dtype))
