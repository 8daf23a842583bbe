"""The parts of a decoder layer that have nothing to do with attention: norm, rotation, feed-forward.

    RMSNorm   x / rms(x) · w             keeps activations at unit scale without subtracting a mean
    RoPE      rotate pairs of q and k    so that q·k depends on the distance between two positions
    SwiGLU    silu(x·Wg) ⊙ (x·Wu) · Wd   a feed-forward layer with a gate

The arithmetic itself is in `kernels/`: PyTorch on a CPU, Triton on a GPU. Notebook 03.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from aiinfra.kernels.lang import pick_backend
from aiinfra.kernels.rmsnorm import rms_norm
from aiinfra.kernels.rope import rope
from aiinfra.kernels.swiglu import swiglu
from aiinfra.model.config import ModelConfig, RopeScaling


class Linear(nn.Linear):
    """nn.Linear that leaves its values to whoever fills them: `Transformer.init_weights` or a file."""

    def reset_parameters(self) -> None:
        """Do nothing: PyTorch's default would draw 135 million random numbers, to be overwritten."""


class Embedding(nn.Embedding):
    """nn.Embedding, likewise."""

    def reset_parameters(self) -> None:
        """Do nothing."""


class RMSNorm(nn.Module):
    """y = x / sqrt(mean(x²) + eps) · w over the last dimension; see kernels/rmsnorm.py."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """x: [..., size] -> y. With a residual of the same shape: (norm of the sum, the sum)."""
        return rms_norm(x, self.weight, self.eps, residual)


class Angles(NamedTuple):
    """cos and signed sin [..., T, 1, Dh] of a step's tokens, and the tokens' row numbers [N] for the kernel."""

    cos: Tensor
    sin: Tensor
    rows: Tensor


class RotaryEmbedding(nn.Module):
    """Each position's angles, worked out once a step for all layers. Source: Su et al. 2021 (RoFormer).

    Value j of a head turns together with value j + Dh/2 ("rotate half", Hugging Face's layout).
    The sign of the second term is folded into the sine, so that a rotation is
    x·cos + swapped(x)·sin, with the halves of x swapped: four operations instead of seven.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        # On the CPU whatever the default device is: a model built on the meta device needs real frequencies.
        pairs = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device="cpu")
        frequency = scale_frequencies(1.0 / config.rope_theta ** (pairs / config.head_dim), config.rope_scaling)
        self.register_buffer("frequency", frequency, persistent=False)      # [Dh/2], radians per position

    def forward(self, positions: Tensor, dtype: torch.dtype) -> Angles:
        """positions [..., T] -> their angles, ready to broadcast over heads."""
        angle = (positions.unsqueeze(-1) * self.frequency.float()).unsqueeze(-2)   # float32: bf16 cannot count past 256
        cos, sin = angle.cos(), angle.sin()                                        # [..., T, 1, Dh/2]
        rows = torch.arange(positions.numel(), device=positions.device)
        return Angles(torch.cat([cos, cos], -1).to(dtype), torch.cat([-sin, sin], -1).to(dtype), rows)


def rotate(qk: Tensor, heads: int, angles: Angles) -> tuple[Tensor, Tensor]:
    """Turn qk [..., T, H + K, Dh], query heads first, by its tokens' angles; returns q and k apart.
    See kernels/rope.py."""
    sizes = [heads, qk.shape[-2] - heads]
    if pick_backend(qk, None) == "torch":
        swapped = qk.roll(qk.shape[-1] // 2, -1)
        turned = torch.addcmul(qk * angles.cos, swapped, angles.sin)
        return turned.split(sizes, -2)
    N, Dh = len(angles.rows), qk.shape[-1]
    cos, sin = angles.cos.view(N, Dh)[:, :Dh // 2], angles.sin.view(N, Dh)[:, Dh // 2:]
    q, k = rope(*qk.reshape(N, -1, Dh).split(sizes, 1), angles.rows, cos, sin)
    return q.view(*qk.shape[:-2], *q.shape[1:]), k.view(*qk.shape[:-2], *k.shape[1:])


def scale_frequencies(frequency: Tensor, scaling: RopeScaling | None) -> Tensor:
    """The rotary frequencies [Dh/2] (radians per position) after long-context scaling."""
    if scaling is None:
        return frequency
    if scaling.kind == "linear":
        return frequency / scaling.factor
    if scaling.kind == "factors":
        return frequency / torch.tensor(scaling.factors, dtype=frequency.dtype, device="cpu")
    wavelength = 2 * math.pi / frequency
    original = scaling.original_max_position_embeddings
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    blend = ((original / wavelength - low) / (high - low)).clamp(0, 1)   # 1: keep, 0: divide
    return blend * frequency + (1 - blend) * frequency / scaling.factor


class SwiGLU(nn.Module):
    """down(silu(gate(x)) ⊙ up(x)); gate and up are one matrix, so the input is read once.

    Source: Shazeer 2020, "GLU Variants Improve Transformer".
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_up = Linear(width, 2 * hidden, bias=False)
        self.down = Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., D] -> [..., D]."""
        return self.down(swiglu(self.gate_up(x)))    # [..., 2F] -> [..., F] -> [..., D]
