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


class Weighed:
    """A module that knows how many bytes of its weights a forward pass over so many tokens reads."""

    def nbytes_read(self, tokens: int = 1) -> int:
        """Bytes of its own parameters: a pass reads all of them, for one token as for many."""
        return sum(parameter.nbytes for parameter in self.parameters(recurse=False))


class Linear(Weighed, nn.Linear):
    """nn.Linear that leaves its values to whoever fills them: `Transformer.init_weights` or a file."""

    def reset_parameters(self) -> None:
        """Do nothing: PyTorch's default would draw 135 million random numbers, to be overwritten."""


class Embedding(Weighed, nn.Embedding):
    """nn.Embedding, likewise."""

    def reset_parameters(self) -> None:
        """Do nothing."""

    def nbytes_read(self, tokens: int = 1) -> int:
        """Nothing to speak of: the table gives up one row a token. A tied one is read by the last layer."""
        return 0

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [...] -> [..., D]. Under autocast in its dtype, so that all that is added up has one
        dtype."""
        x = super().forward(tokens)
        kind = x.device.type                           # autocast does not know "meta", and raises
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        return x


class RMSNorm(Weighed, nn.Module):
    """y = x / sqrt(mean(x²) + eps) · w over the last dimension; see kernels/rmsnorm.py."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., size] -> y, of the same shape."""
        return rms_norm(x, self.scale, self.eps)

    def add(self, y: Tensor | None, x: Tensor) -> tuple[Tensor, Tensor]:
        """(norm of y + x, y + x), both of x's shape, in one pass over memory on a GPU; y None: nothing is
        added."""
        if y is None:
            return self(x), x
        return rms_norm(y, self.scale, self.eps, x)

    @property
    def scale(self) -> Tensor:
        """The weight, as the kernel takes it."""
        return self.weight


def set_parameters(layer: nn.Module, values: dict[str, Tensor]) -> None:
    """Give a layer these values as its parameters, which nobody trains unless told to, and as its buffers.
    What is a parameter already stays the same one, so that a tied weight is shared."""
    buffers = dict(layer.named_buffers(recurse=False))
    for name, value in values.items():
        if name not in buffers and not isinstance(value, nn.Parameter):
            value = nn.Parameter(value, requires_grad=False)
        setattr(layer, name, value)


class Angles(NamedTuple):
    """cos and signed sin [..., T, 1, Dh] of a step's tokens, and the tokens' row numbers [N] for the
    kernel."""

    cos: Tensor
    sin: Tensor
    rows: Tensor

    def halves(self) -> tuple[Tensor, Tensor]:
        """cos and sin [N, Dh/2] as the kernels want them: of half a head, and without signs."""
        N, half = len(self.rows), self.cos.shape[-1] // 2
        return self.cos.view(N, -1)[:, :half], self.sin.view(N, -1)[:, half:]


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
        plain = 1.0 / config.rope_theta ** (pairs / config.head_dim)
        frequency = scale_frequencies(plain, config.rope_scaling)
        self.register_buffer("frequency", frequency, persistent=False)      # [Dh/2], radians per position
        self.amplitude = 1.0 if config.rope_scaling is None else config.rope_scaling.amplitude

    def forward(self, positions: Tensor, dtype: torch.dtype) -> Angles:
        """positions [..., T] -> their angles, ready to broadcast over heads."""
        # float32: bfloat16 cannot count past 256
        angle = positions.unsqueeze(-1) * self.frequency.float()           # [..., T, Dh/2]
        angle = angle.unsqueeze(-2)                                # [..., T, 1, Dh/2]: the same for all heads
        cos, sin = angle.cos(), angle.sin()
        if self.amplitude != 1.0:
            cos, sin = cos * self.amplitude, sin * self.amplitude
        return Angles(
            cos=torch.cat([cos, cos], -1).to(dtype),
            sin=torch.cat([-sin, sin], -1).to(dtype),
            rows=torch.arange(positions.numel(), device=positions.device))


def rotate(qk: Tensor, heads: int, angles: Angles) -> tuple[Tensor, Tensor]:
    """Turn qk [..., T, H + K, Dh], query heads first, by its tokens' angles; returns q and k apart.
    See kernels/rope.py."""
    sizes = [heads, qk.shape[-2] - heads]
    half = qk.shape[-1] // 2
    if pick_backend(qk, None) == "torch":
        swapped = qk.roll(half, -1)
        turned = torch.addcmul(qk * angles.cos, swapped, angles.sin)
        return turned.split(sizes, -2)
    q, k = qk.reshape(len(angles.rows), -1, 2 * half).split(sizes, 1)
    q, k = rope(q, k, angles.rows, *angles.halves())
    lead = qk.shape[:-2]
    return q.view(*lead, *q.shape[1:]), k.view(*lead, *k.shape[1:])


def scale_frequencies(frequency: Tensor, scaling: RopeScaling | None) -> Tensor:
    """The rotary frequencies [Dh/2] (radians per position) after long-context scaling."""
    if scaling is None:
        return frequency
    if scaling.kind == "linear":
        return frequency / scaling.factor
    if scaling.kind == "factors":
        return frequency / torch.tensor(scaling.factors, dtype=frequency.dtype, device="cpu")
    wavelength = 2 * math.pi / frequency
    turns = scaling.original_max_position_embeddings / wavelength   # within the context of the first training
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    keep = ((turns - low) / (high - low)).clamp(0, 1)                    # 1: keep the frequency, 0: divide it
    return keep * frequency + (1 - keep) * frequency / scaling.factor


class SwiGLU(nn.Module):
    """down(silu(gate(x)) ⊙ up(x)); gate and up are one matrix, so the input is read once.

    Source: Shazeer 2020, "GLU Variants Improve Transformer".
    """

    def __init__(self, width: int, hidden: int, bias: bool = False) -> None:
        super().__init__()
        self.gate_up = Linear(width, 2 * hidden, bias=bias)
        self.down = Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., D] -> [..., D]."""
        return self.down(swiglu(self.gate_up(x)))    # [..., 2F] -> [..., F] -> [..., D]
