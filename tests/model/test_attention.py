"""Attention against its formula, for every shape that a caller may bring."""

import pytest
import torch

from aiinfra.model import ModelConfig
from aiinfra.model.attention import Attention, attend_heads, causal_attention
from aiinfra.model.layers import RotaryEmbedding


def formula(q, k, v):
    """q [T, H, Dh], k and v [S, K, Dh]: softmax(q·kᵀ/√Dh)·v, query i of the T newest sees keys up to its
    own."""
    T, S, share = len(q), len(k), q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
    scores = torch.einsum("thd,shd->hts", q, k) / q.shape[-1] ** 0.5
    scores = scores.masked_fill(~torch.ones(T, S, dtype=torch.bool).tril(S - T), -torch.inf)
    return torch.einsum("hts,shd->thd", scores.softmax(-1), v)


@pytest.mark.parametrize("T, S", [(1, 1), (1, 9), (6, 6), (4, 9)])
@pytest.mark.parametrize("H, K", [(6, 2), (4, 4), (3, 1)])
def test_causal_attention_is_the_formula(T: int, S: int, H: int, K: int) -> None:
    torch.manual_seed(T + S + H)
    q, k, v = torch.randn(T, H, 16), torch.randn(S, K, 16), torch.randn(S, K, 16)
    expected = formula(q, k, v)
    torch.testing.assert_close(causal_attention(q, k, v), expected)
    torch.testing.assert_close(causal_attention(q[None], k[None], v[None])[0], expected)
    heads_first = attend_heads(q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1))
    torch.testing.assert_close(heads_first.transpose(0, 1), expected)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_a_cache_that_keeps_everything_changes_nothing(qk_norm: bool) -> None:
    """What differs between training and decoding is who holds the keys and values."""
    class Keeper:
        length = 0

        def attend(self, layer, q, k, v):
            assert layer == 5
            return causal_attention(q, k, v)
    config = ModelConfig(vocab_size=61, hidden_size=48, num_hidden_layers=6, num_attention_heads=6,
                         num_key_value_heads=2,
                         head_dim=16, intermediate_size=40, qk_norm=qk_norm)
    attention = Attention(config, 5)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    angles = RotaryEmbedding(config)(torch.arange(7), torch.float32)
    x = torch.randn(7, 48)
    assert torch.equal(attention(x, angles, Keeper()), attention(x, angles, None))
