"""The decoder: tokens in, logits for the next token out. State is an argument.

    tokens ─ embed ─┬─ norm ─ attention ─(+)─┬─ norm ─ SwiGLU ─(+)─ … ─ norm ─ lm_head ─> logits
                    └────────────────────────┘└──────────────────┘
                              one of num_hidden_layers decoder layers

No rank, no bit width and no global in here: parallelism, packing and quantisation are applied to a
finished model from outside, and the KV cache arrives with the call. Notebook 03.
"""

import math

import torch
from torch import Tensor, nn

from aiinfra.model.attention import KV, Attention
from aiinfra.model.config import ModelConfig
from aiinfra.model.layers import Angles, Embedding, Linear, RMSNorm, RotaryEmbedding, SwiGLU, Weighed
from aiinfra.model.mla import MLA
from aiinfra.model.moe import MoE


# Matrices that write to the residual stream.
_WRITERS = ("attention.out.weight", "mlp.down.weight", "experts.down.weight", "shared.down.weight")


class DecoderLayer(nn.Module):
    """Each of its two halves reads the residual stream, and adds to it."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        kind = Attention if config.mla is None else MLA
        self.attention = kind(config, layer)
        self.mlp_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        if config.is_sparse(layer):
            self.mlp = MoE(config.hidden_size, config.moe)
        else:
            self.mlp = SwiGLU(config.hidden_size, config.intermediate_size, config.mlp_bias)

    def forward(self, x: Tensor, y: Tensor | None, angles: Angles, kv: KV | None) -> tuple[Tensor, Tensor]:
        """The stream, and what is still to be added to it: x and y [..., T, D] -> the same after this layer.
        y None: nothing."""
        # x = x + self.attention(self.attention_norm(x), angles, kv)
        # x = x + self.mlp(self.mlp_norm(x))
        # The same, but a norm makes the sum in front of it, in one pass over memory on a GPU
        # (kernels/rmsnorm.py); the last sum is left to the norm of the next layer.
        normed, x = self.attention_norm.add(y, x)
        y = self.attention(normed, angles, kv)
        normed, x = self.mlp_norm.add(y, x)
        return x, self.mlp(normed)


class Transformer(nn.Module):
    """A Llama-family decoder with random weights; `aiinfra.load` gives one that has learnt."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = Embedding(config.vocab_size, config.hidden_size)
        self.rotary = RotaryEmbedding(config)
        self.layers = nn.ModuleList(DecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed.weight
        if not self.embed.weight.is_meta:
            self.init_weights()

    def init_weights(self, std: float = 0.02) -> None:
        """Draw every matrix from N(0, std²), biases zero, norms one. Matrices that write to the residual
        stream are scaled down by sqrt(2 · layers), so that its variance does not grow with depth (GPT-2)."""
        residual_std = std / math.sqrt(2 * len(self.layers))
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 1:
                nn.init.ones_(parameter)
            elif name.endswith(_WRITERS):
                nn.init.normal_(parameter, std=residual_std)
            else:
                nn.init.normal_(parameter, std=std)

    def forward(self, tokens: Tensor, positions: Tensor | None = None, kv: KV | None = None) -> Tensor:
        """Logits of the token that follows each given one.

        tokens: int64 [B, T] or flat [T]. positions: the same shape; None continues from `kv.length`, or from
        0. The caller keeps them below the config's max_position_embeddings. kv: what came before; it keeps
        these tokens' keys and values. Returns [..., T, V] in the weights' dtype.
        """
        return self.lm_head(self.hidden(tokens, positions, kv))

    def hidden(self, tokens: Tensor, positions: Tensor | None = None, kv: KV | None = None) -> Tensor:
        """As `forward`, but stops before the vocabulary: [..., T, D]. Prefill needs one row of logits."""
        if positions is None:
            start = 0 if kv is None else kv.length
            positions = torch.arange(start, start + tokens.shape[-1], device=tokens.device)
        x, y = self.embed(tokens), None                           # [..., T, D]
        angles = self.rotary(positions.expand(tokens.shape), x.dtype)
        for layer in self.layers:
            x, y = layer(x, y, angles, kv)
            if torch.is_grad_enabled():          # recomputation keeps what is between layers: one tensor
                x, y = x + y, None
        normed, _ = self.norm.add(y, x)
        return normed

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the activations, and of weights that are not quantised."""
        return self.norm.weight.dtype

    def weight_bytes(self, tokens: int = 1) -> int:
        """Bytes of weights that a forward pass over so many tokens reads: all but an embedding table of its
        own, and of experts those that the tokens hit.

        A tied table is read whole, by the last layer; an untied one gives up one row a token.
        """
        return sum(module.nbytes_read(tokens) for module in self.modules() if isinstance(module, Weighed))
