"""The simplest KV cache: one long, contiguous row of slots for each sequence.

    k[layer]:  [B, K, capacity, Dh]   ███████████░░░░░░░░░░░░
                                      └ length ┘└  reserved  ┘

What was computed for a token is kept, so that the next token costs one token's work. Its price
is the reserved part, which nobody else can use: notebook 13 rents it out block by block.
With latent attention one row serves as key and, in its first part, as value: v is a view of k.
Invariant: after each forward pass, slots [0, length) of every layer are filled. Notebook 11.
"""

import torch
from torch import Tensor

from aiinfra.model.attention import attend_heads
from aiinfra.model.config import ModelConfig


class KVCache:
    """Keys and values of `batch` sequences that advance together, up to `capacity` tokens each."""

    keeps = True

    def __init__(self, config: ModelConfig, capacity: int, batch: int = 1,
                 dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> None:
        layers = config.num_hidden_layers
        shape = (layers, batch, config.kept_heads, capacity, config.kept_size)
        self.k = torch.empty(shape, dtype=dtype, device=device)     # [layers, B, K, S, Dh]
        self.v = values_beside(self.k, config)
        # Views, cut once, each by itself: autograd lets nobody write into one of several cut together.
        self._layers = [self._views(layer) for layer in range(layers)]
        self.length = 0
        self.capacity = capacity
        self._latent = config.mla is not None

    def _views(self, layer: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Keys and values of a layer: [B, K, S, Dh] to read, [B, S, K, Dh] to write."""
        keys, values = self.k[layer], self.v[layer]
        return keys, values, keys.transpose(1, 2), values.transpose(1, 2)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Append k, v [B, T, K, Dh] to `layer`; attend q [B, T, H, Dh] over all kept -> [B, T, H, Dh].

        The last layer's call moves `length` on by T. Raises ValueError if the cache is full.
        """
        start, T = self.length, q.shape[1]
        end = start + T
        if end > self.capacity:
            raise ValueError(f"the KV cache holds {self.capacity} tokens and {end} are needed: "
                             "make it with a larger capacity.")
        keys, values, new_keys, new_values = self._layers[layer]
        new_keys.narrow(1, start, T).copy_(k)
        if not self._latent:
            new_values.narrow(1, start, T).copy_(v)
        keys, values = keys.narrow(2, 0, end), values.narrow(2, 0, end)      # [B, K, S, Dh]
        y = attend_heads(q.transpose(1, 2), keys, keys if self._latent else values)
        y = y[..., :values.shape[-1]]            # whole rows were added up: fused kernels want one size
        if layer == len(self.k) - 1:
            self.length = end
        return y.transpose(1, 2)

    @property
    def nbytes(self) -> int:
        """Bytes reserved, used or not."""
        return self.k.nbytes if self._latent else self.k.nbytes + self.v.nbytes


def values_beside(keys: Tensor, config: ModelConfig) -> Tensor:
    """Where the values of these keys are kept: in a tensor of the same shape, or with latent attention in
    the first kv_lora_rank values of each key."""
    if config.mla is None:
        return torch.empty_like(keys)
    return keys[..., :config.mla.kv_lora_rank]
