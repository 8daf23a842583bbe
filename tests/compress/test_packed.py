"""Packed linear layers give the plain layer's numbers, for one row and for many, wherever the shapes lead."""

import pytest
import torch
from torch import nn

from aiinfra.checkpoint import load
from aiinfra.compress import pack, packed
from aiinfra.compress.packed import PackedLinear
from aiinfra.model import ModelConfig, Transformer

pytestmark = pytest.mark.skipif(not packed.can_pack(torch.float32, torch.device("cpu")),
                                reason="this PyTorch has no oneDNN")


def layer(out_features, in_features, bias=False):
    torch.manual_seed(out_features + in_features)
    return nn.Linear(in_features, out_features, bias=bias)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(64, 16), (192, 576), (960, 33), (128, 1), (100, 48), (1, 7), (63, 64),
                                   (65, 64)])
@pytest.mark.parametrize("lead", [(1,), (1, 1), (), (2,), (3, 5), (0,)], ids=str)
def test_equals_the_plain_layer(shape, bias, lead):
    plain = layer(*shape, bias)
    x = torch.randn(*lead, shape[1])
    with torch.inference_mode():
        y = PackedLinear(plain)(x)
        expected = plain.double()(x.double())
    assert y.shape == expected.shape and y.dtype == torch.float32
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-5)


def test_one_row_reads_the_same_bytes():
    layer_ = PackedLinear(layer(192, 576))
    assert layer_.panels is not None, "this oneDNN has another layout: the fast path for one row is off"
    assert layer_.panels[0].data_ptr() == torch.ops.mkldnn.data_ptr(layer_.packed_weight)
    assert torch.equal(layer_.unpacked_weight(), layer(192, 576).weight)


def test_another_layout_is_noticed(monkeypatch):
    """A oneDNN with panels of another width still gives right answers, by its own product."""
    monkeypatch.setattr(packed, "PANEL", 32)
    plain = layer(192, 576)
    layer_ = PackedLinear(plain)
    assert layer_.panels is None
    x = torch.randn(1, 576)
    torch.testing.assert_close(layer_(x), plain(x), rtol=1e-4, atol=1e-5)


def test_training_is_refused():
    with pytest.raises(RuntimeError, match="packed=False"):
        PackedLinear(layer(64, 16))(torch.randn(1, 16, requires_grad=True))


def test_a_tied_table_is_kept_once(tmp_path):
    model = Transformer(ModelConfig(vocab_size=192, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                                    num_attention_heads=2, num_key_value_heads=1, head_dim=16,
                                    tie_word_embeddings=True)).eval()
    tokens = torch.tensor([[0, 63, 64], [65, 191, 5]])
    expected, table, size = model(tokens), model.embed(tokens), model.weight_bytes()
    with torch.inference_mode():
        pack(model)
        assert torch.equal(model.embed(tokens), table)
        torch.testing.assert_close(model(tokens), expected.detach(), rtol=1e-4, atol=1e-5)
    assert model.weight_bytes() == size and not any(p.numel() >= 192 * 32 for p in model.parameters())


def test_memory_of_packed_weights_outlives_the_layer():
    short_lived = PackedLinear(nn.Linear(576, 1024, bias=False))
    rows = short_lived.weight_rows()
    copy = rows.clone()
    del short_lived
    junk = [torch.randn(576, 1024) for _ in range(4)]
    assert torch.equal(rows, copy) and len(junk) == 4


def test_packed_gives_the_plain_numbers(gguf_path) -> None:
    plain, tokenizer = load(gguf_path, packed=False, dtype="float32", device="cpu")
    tokens = torch.tensor([tokenizer.encode("Packed weights are the same weights in another order.")])
    with torch.inference_mode():
        expected = plain(tokens)
        weight = plain.layers[3].mlp.down.weight.clone()
        packed = pack(plain)
        assert torch.equal(packed.layers[3].mlp.down.unpacked_weight(), weight)
        assert (packed(tokens) - expected).abs().max() < 1e-3
