"""One attention for training, prefill and decode; what differs is who holds the keys and values.

    kv=None    the new tokens attend to one another, causally
    kv=cache   the cache stores their k and v, and attends over all it has: `kv.attend(layer, q, k, v)`

So a paged, a quantised or a contiguous cache plugs in without a line changed here. The model never
learns how many tokens came before: that is the cache's business. Notebooks 03 and 11.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from aiinfra.kernels.flash_attention import flash_attention
from aiinfra.kernels.lang import pick_backend
from aiinfra.model.config import ModelConfig
from aiinfra.model.layers import Angles, Linear, RMSNorm, rotate


class KV(Protocol):
    """What attention asks of a cache. `length`: tokens before the next one, where all have the same
    number. One that keeps what it is given has `keeps = True`: latent attention then hands it compressed
    rows, k [..., T, 1, R + Dr] and v [..., T, 1, R], which is the first part of k. One that turns queries and
    keys while it stores them has `turn_and_attend(layer, qk, v, angles)`, with qk [N, H + K, Dh] not turned
    yet, query heads first."""

    length: int

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store k, v [..., T, K, Dh] for `layer`; return attention [..., T, H, Dh] of q over all stored."""
        ...


class Attention(nn.Module):
    """Grouped-query attention: H query heads share K key/value heads. Source: Ainslie et al. 2023."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.head_dim = config.head_dim
        # q, k and v are one matrix: the input is read once, and one call is made instead of three.
        outputs = (self.heads + 2 * self.kv_heads) * self.head_dim
        self.qkv = Linear(config.hidden_size, outputs, bias=config.qkv_bias)
        self.out = Linear(self.heads * self.head_dim, config.hidden_size, bias=config.out_bias)
        self.q_norm = self.k_norm = None
        if config.qk_norm:
            self.q_norm = RMSNorm(self.head_dim, config.rms_norm_eps)
            self.k_norm = RMSNorm(self.head_dim, config.rms_norm_eps)

    def forward(self, x: Tensor, angles: Angles, kv: KV | None) -> Tensor:
        """x [..., T, D] -> [..., T, D]."""
        if hasattr(kv, "turn_and_attend"):
            qk, v = self.products(x)
            y = kv.turn_and_attend(self.layer, qk, v, angles)
            return self.out(y.flatten(-2))
        q, k, v = self.project(x, angles)
        if kv is None:
            y = causal_attention(q, k, v)
        else:
            y = kv.attend(self.layer, q, k, v)
        return self.out(y.flatten(-2))

    def project(self, x: Tensor, angles: Angles) -> tuple[Tensor, Tensor, Tensor]:
        """x [..., T, D] -> rotated q [..., T, H, Dh], rotated k and plain v [..., T, K, Dh]."""
        qk, v = self.products(x)
        q, k = rotate(qk, self.heads, angles)     # one turn for both: they stand at the same positions
        return q, k, v

    def products(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [..., T, D] -> q and k in one, not rotated yet, [..., T, H + K, Dh], and v [..., T, K, Dh]."""
        H, K = self.heads, self.kv_heads
        qkv = self.qkv(x)
        qkv = qkv.view(*qkv.shape[:-1], H + 2 * K, self.head_dim)      # [..., T, H + 2K, Dh]
        qk, v = qkv.split([H + K, K], -2)
        if self.q_norm is not None:
            q, k = qk.split([H, K], -2)
            qk = torch.cat([self.q_norm(q), self.k_norm(k)], -2)
        return qk, v


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q·kᵀ/√Dh)·v where query i of the T newest sees every key up to its own.

    q [..., T, H, Dh], k and v [..., S, K, Dh], S >= T -> [..., T, H, Dh].
    """
    if pick_backend(q, None) == "triton":
        return flash_attention(q, k, v)
    y = attend_heads(q.transpose(-3, -2), k.transpose(-3, -2), v.transpose(-3, -2))
    return y.transpose(-3, -2)


def attend_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As `causal_attention`, heads first: q [..., H, T, Dh], k and v [..., K, S, Dh] -> [..., H, T, Dh]."""
    H, T = q.shape[-3:-1]
    K, S = k.shape[-3:-1]
    flat = q.ndim == 3
    if flat:
        q, k, v = q[None], k[None], v[None]              # PyTorch's fused kernels want four dimensions
    mask = None
    if T > 1 and S > T:                              # PyTorch aligns is_causal to the first key, not the last
        mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
    causal = T > 1 and mask is None
    y = nn.functional.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, enable_gqa=H != K)
    return y[0] if flat else y
