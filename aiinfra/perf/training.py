"""The arithmetic of a training step, by the model's formula: what MFU divides by.

    every weight of a matrix     2 FLOPs a token forward, 4 backward (for the input, and for the weight);
                                 of experts, those that a token takes
    attention                    q·kᵀ and weights·v: 4 · Dh FLOPs a visible pair forward, 8 backward

Embedding look-ups, norms and the optimizer are not counted, nor is what activation checkpointing does again:
work that a better program would not do is no utilisation. Chowdhery et al. 2022 (PaLM), appendix B.
"""

from collections.abc import Iterable
from typing import Protocol

from aiinfra.perf.experts import feed_forward_weights


class DecoderShape(Protocol):
    """What the formulas ask of a decoder's config; `aiinfra.model.ModelConfig` is one."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    tie_word_embeddings: bool


def matrix_weights(shape: DecoderShape) -> int:
    """Weights that a token is multiplied with: all matrices of the layers, of experts those that it takes,
    and the last one over the vocabulary."""
    attention = shape.num_hidden_layers * attention_weights(shape)
    return attention + feed_forward_weights(shape).active + shape.hidden_size * shape.vocab_size


def attention_weights(shape: DecoderShape) -> int:
    """Weights of the matrices around one layer's attention; latent attention has others."""
    D, H = shape.hidden_size, shape.num_attention_heads
    mla = getattr(shape, "mla", None)
    if mla is None:
        heads = 2 * H + 2 * shape.num_key_value_heads                # q and out, k and v
        return D * heads * shape.head_dim
    query = H * mla.qk_head_dim
    queries = D * query
    if mla.q_lora_rank is not None:
        queries = mla.q_lora_rank * (D + query)
    key_and_value = mla.kv_lora_rank * H * (mla.qk_nope_head_dim + mla.v_head_dim)
    return queries + D * mla.kept_size + key_and_value + H * mla.v_head_dim * D


def recomputed_flops(shape: DecoderShape, lengths: Iterable[int], policy: str) -> float:
    """FLOPs that activation checkpointing does a second time: a forward pass of all layers for "block". What
    "operation" does again has no matrix products: it costs traffic, not FLOPs."""
    if policy != "block":
        return 0.0
    lengths = list(lengths)
    head = 6.0 * shape.hidden_size * shape.vocab_size * sum(lengths)     # the last layer is in no block
    return (decoder_flops(shape, lengths) - head) / 3


def decoder_flops(shape: DecoderShape, lengths: Iterable[int]) -> float:
    """FLOPs of forward and backward over documents of these lengths, each seeing itself only, causally."""
    lengths = list(lengths)
    pairs = sum(length * (length + 1) / 2 for length in lengths)
    mla = getattr(shape, "mla", None)
    both = 2 * shape.head_dim if mla is None else mla.qk_head_dim + mla.v_head_dim      # query and value
    attention = 6.0 * shape.num_hidden_layers * shape.num_attention_heads * both * pairs
    return 6.0 * matrix_weights(shape) * sum(lengths) + attention
