"""Multi-head latent attention (MLA): all heads' keys and values, kept as one short row a token.

    x ─ q_a ─ norm ─ q_b ─────────> q of H heads     [Dn not turned | Dr turned]
    x ─ kv_a ──┬─ norm ─> c [R] ─ kv_b ─> H heads'    key [Dn] and value [Dv]
               └─ turned ──────────────> one key [Dr] that all heads share
                                         kept a token: c and this, R + Dr values

Keys are linear in c, so their matrix can be moved to the other side of the product, once for the query in
place of once for every key ("absorbed"):

    q · (Wk c) = (q Wk) · c          Σ weight · (Wv c) = Wv (Σ weight · c)

A cache then sees attention with H query heads and a single key head of R + Dr values, of which the first R
are the value. Where nothing is kept, as in training, whole heads are cheaper: Dn + Dr + Dv products a pair,
not 2 · R + Dr. Invariant: both ways give the same. Source: DeepSeek-AI 2024 (DeepSeek-V2), arXiv 2405.04434.
Notebook 17.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from aiinfra.model.attention import KV, causal_attention
from aiinfra.model.config import ModelConfig
from aiinfra.model.layers import Angles, Linear, RMSNorm, Weighed, rotate

# Of the two inner norms, whatever the config says of the others: as DeepSeek's own code has it.
_NORM_EPS = 1e-6


class LatentUp(Weighed, nn.Module):
    """From c to each head's key and value: weight [H · (Dn + Dv), R], head by head as files have it.

    No `Linear`, so that nobody packs or quantises it: absorbed, its halves are multiplied from both sides.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        mla = config.mla
        self.sizes = (mla.qk_nope_head_dim, mla.v_head_dim)
        rows = config.num_attention_heads * sum(self.sizes)
        self.weight = nn.Parameter(torch.empty(rows, mla.kv_lora_rank))

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """latent [..., T, R] -> keys [..., T, H, Dn], values [..., T, H, Dv]."""
        both = linear(latent, self.values())
        heads = both.unflatten(-1, (-1, sum(self.sizes)))
        return heads.split(self.sizes, -1)

    def halves(self) -> tuple[Tensor, Tensor]:
        """The matrices of keys [H, Dn, R] and of values [H, Dv, R]."""
        heads = self.values().unflatten(0, (-1, sum(self.sizes)))
        return heads.split(self.sizes, 1)

    def values(self) -> Tensor:
        """The weight as it is multiplied with."""
        return self.weight


class MLA(nn.Module):
    """Takes the place of `Attention` where the config has an `mla`."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        mla = config.mla
        self.layer = layer
        self.interleaved = mla.rope_interleave
        self.parts = (mla.qk_nope_head_dim, mla.qk_rope_head_dim)             # Dn, Dr
        self.kept = (mla.kv_lora_rank, mla.qk_rope_head_dim)                  # R, Dr
        self.head_size = mla.qk_head_dim
        self.scale = mla.qk_head_dim ** -0.5
        if config.rope_scaling is not None:
            self.scale *= config.rope_scaling.score_factor
        D, bias = config.hidden_size, config.out_bias
        heads = config.num_attention_heads
        if mla.q_lora_rank is None:
            self.q = Linear(D, heads * mla.qk_head_dim, bias=False)
        else:
            self.q_a = Linear(D, mla.q_lora_rank, bias=bias)
            self.q_a_norm = RMSNorm(mla.q_lora_rank, _NORM_EPS)
            self.q_b = Linear(mla.q_lora_rank, heads * mla.qk_head_dim, bias=False)
        self.kv_a = Linear(D, mla.kept_size, bias=bias)
        self.kv_a_norm = RMSNorm(mla.kv_lora_rank, _NORM_EPS)
        self.kv_b = LatentUp(config)
        self.out = Linear(heads * mla.v_head_dim, D, bias=bias)

    def forward(self, x: Tensor, angles: Angles, kv: KV | None) -> Tensor:
        """x [..., T, D] -> [..., T, D]."""
        q, q_turned = self.queries(x)
        latent, shared = self.compress(x)
        q_turned, k_turned = self.turn(q_turned, shared, angles)
        if getattr(kv, "keeps", False):
            q = self.absorbed(q)
            y = self.attend_kept(join(q, q_turned), latent, k_turned, kv)
        else:
            y = self.attend_heads(join(q, q_turned), latent, k_turned, kv)
        return self.out(y.flatten(-2))

    def queries(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [..., T, D] -> [..., T, H, Dn] and [..., T, H, Dr], of which the latter are to be turned."""
        if hasattr(self, "q"):
            q = self.q(x)
        else:
            short = self.q_a_norm(self.q_a(x))
            q = self.q_b(short)
        heads = q.unflatten(-1, (-1, self.head_size))
        return heads.split(self.parts, -1)

    def compress(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [..., T, D] -> c [..., T, 1, R], and the key of all heads [..., T, 1, Dr], not turned yet."""
        row = self.kv_a(x).unsqueeze(-2)
        latent, shared = row.split(self.kept, -1)
        return self.kv_a_norm(latent), shared

    def turn(self, q: Tensor, shared: Tensor, angles: Angles) -> tuple[Tensor, Tensor]:
        """q [..., T, H, Dr] and the shared key [..., T, 1, Dr], turned."""
        both = torch.cat([q, shared], -2)
        if self.interleaved:
            # Pairs side by side become halves; queries and keys alike, so no product changes.
            pairs = both.unflatten(-1, (-1, 2))
            both = pairs.transpose(-1, -2).flatten(-2)
        return rotate(both, q.shape[-2], angles)

    def attend_heads(self, q: Tensor, latent: Tensor, k_turned: Tensor, kv: KV | None) -> Tensor:
        """Attention among the new tokens, with each head's keys and values worked out: [..., T, H, Dv]."""
        k, v = self.kv_b(latent.squeeze(-2))
        k_turned = k_turned.expand(*k.shape[:-1], -1)
        k = join(k, k_turned)
        size = v.shape[-1]
        width = max(size, self.head_size)                 # kernels want one size for keys and values
        q, k, v = widened(q, width), widened(k, width), widened(v, width)
        q = self.scaled(q)
        if kv is None:
            y = causal_attention(q, k, v)
        else:
            y = kv.attend(self.layer, q, k, v)
        return y[..., :size]

    def absorbed(self, q: Tensor) -> Tensor:
        """q [..., T, H, Dn] times the matrix of keys: [..., T, H, R], to be compared with c itself."""
        keys, _ = self.kv_b.halves()
        return torch.einsum("...hd,hdr->...hr", q, keys)

    def attend_kept(self, q: Tensor, latent: Tensor, k_turned: Tensor, kv: KV) -> Tensor:
        """Attention of absorbed q [..., T, H, R + Dr] over a cache of compressed rows: [..., T, H, Dv]."""
        k = join(latent, k_turned)
        y = kv.attend(self.layer, self.scaled(q), k, latent)                  # [..., T, H, R]
        _, values = self.kv_b.halves()
        return torch.einsum("...hr,hdr->...hd", y, values)

    def scaled(self, q: Tensor) -> Tensor:
        """q so that who divides its scores by the root of its width has divided by ours."""
        factor = self.scale * q.shape[-1] ** 0.5
        return q * factor


def join(plain: Tensor, turned: Tensor) -> Tensor:
    """The two parts of a query or key, side by side."""
    return torch.cat([plain, turned], -1)


def widened(x: Tensor, size: int) -> Tensor:
    """x [..., n] with zeros behind: [..., size]."""
    more = size - x.shape[-1]
    if not more:
        return x
    return pad(x, (0, more))
