"""Norm, rotation and feed-forward, each against its formula."""

import math

import pytest
import torch
from torch import nn

from aiinfra.model import ModelConfig, RopeScaling
from aiinfra.model.layers import (
    Embedding, Linear, RMSNorm, RotaryEmbedding, SwiGLU, rotate, scale_frequencies, set_parameters)

CONFIG = ModelConfig(vocab_size=61, hidden_size=48, num_hidden_layers=2, num_attention_heads=6,
                     num_key_value_heads=2,
                     head_dim=16, intermediate_size=40)


def test_norm_and_its_sum() -> None:
    norm = RMSNorm(48, 1e-5)
    nn.init.normal_(norm.weight)
    x, residual = torch.randn(3, 48), torch.randn(3, 48)
    expected = x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), expected)
    y, total = norm.add(x, residual)
    assert torch.equal(total, x + residual)
    torch.testing.assert_close(y, norm(total))


def test_rotation_turns_pairs() -> None:
    """Value j of a head and value j + Dh/2, by the position times frequency j."""
    rotary = RotaryEmbedding(CONFIG)
    positions = torch.tensor([0, 3, 250])
    qk = torch.randn(3, 8, 16)
    q, k = rotate(qk, 6, rotary(positions, torch.float32))
    assert q.shape == (3, 6, 16) and k.shape == (3, 2, 16)
    pairs = torch.complex(qk[..., :8], qk[..., 8:])
    angle = positions[:, None, None] * rotary.frequency
    turned = pairs * torch.polar(torch.ones_like(angle), angle)
    expected = torch.cat([turned.real, turned.imag], -1)
    torch.testing.assert_close(torch.cat([q, k], 1), expected, rtol=1e-4, atol=1e-4)


def test_frequencies_stay_real_on_the_meta_device() -> None:
    with torch.device("meta"):
        rotary = RotaryEmbedding(CONFIG)
    assert rotary.frequency.device.type == "cpu" and rotary.frequency[0] == 1
    assert rotary.frequency[-1].item() == pytest.approx(10_000 ** (-14 / 16))


def test_scaled_frequencies() -> None:
    plain = RotaryEmbedding(CONFIG).frequency
    assert torch.equal(scale_frequencies(plain, None), plain)
    assert torch.equal(scale_frequencies(plain, RopeScaling("linear", factor=4.0)), plain / 4)
    factors = RopeScaling("factors", factors=tuple(range(1, 9)))
    assert torch.equal(scale_frequencies(plain, factors), plain / torch.arange(1, 9))
    llama3 = RopeScaling("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                         original_max_position_embeddings=64)
    scaled = scale_frequencies(plain, llama3)
    wavelength = 2 * math.pi / plain
    torch.testing.assert_close(scaled[wavelength < 64 / 4], plain[wavelength < 64 / 4])  # short: as they were
    torch.testing.assert_close(scaled[wavelength > 64], plain[wavelength > 64] / 8)            # long: divided
    assert ((scaled <= plain) & (scaled >= plain / 8)).all()


def test_feed_forward_is_gated() -> None:
    mlp = SwiGLU(48, 40)
    for parameter in mlp.parameters():
        nn.init.normal_(parameter, std=0.2)
    x = torch.randn(2, 5, 48)
    gate, up = (x @ mlp.gate_up.weight.T).split([40, 40], -1)
    torch.testing.assert_close(mlp(x), (nn.functional.silu(gate) * up) @ mlp.down.weight.T)


def test_bytes_that_a_pass_reads() -> None:
    assert Linear(48, 40).nbytes_read() == (48 * 40 + 40) * 4
    assert RMSNorm(48, 1e-5).nbytes_read() == 48 * 4
    assert Embedding(61, 48).nbytes_read() == 0


def test_values_become_parameters_and_parameters_stay_the_same_ones() -> None:
    layer, shared = Linear(4, 3), nn.Parameter(torch.ones(3, 4))
    set_parameters(layer, {"weight": shared, "bias": torch.zeros(3)})
    assert layer.weight is shared and isinstance(layer.bias, nn.Parameter) and not layer.bias.requires_grad
