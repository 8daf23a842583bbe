"""Guards train/onednn.py: the same layer, other kernels."""

import pytest
import torch
from torch.nn import functional as F

from aiinfra.device import has_onednn
from aiinfra.model import ModelConfig, Transformer
from aiinfra.model.layers import Linear
from aiinfra.train.onednn import OneDnnLinear, use_onednn
from aiinfra.train.recompute import POLICIES, recompute

pytestmark = pytest.mark.skipif(not has_onednn(), reason="this PyTorch has no oneDNN")

CONFIG = ModelConfig(vocab_size=97, hidden_size=24, num_hidden_layers=2, num_attention_heads=4,
                     num_key_value_heads=2, head_dim=6, intermediate_size=40, tie_word_embeddings=True,
                     qkv_bias=True)


def layer(bias: bool) -> Linear:
    """With values of its own."""
    torch.manual_seed(1)
    made = Linear(24, 40, bias=bias)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    use_onednn(made)
    assert type(made) is OneDnnLinear
    return made


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(24,), (1, 24), (7, 24), (0, 24), (2, 3, 24)])
def test_values_and_gradients_are_those_of_f_linear(shape, bias):
    ours = layer(bias)
    x = torch.randn(*shape, requires_grad=True)
    dy = torch.randn(*shape[:-1], 40)
    y = ours(x)
    y.backward(dy)
    exact = [t.detach().double().requires_grad_() for t in (x, *ours.parameters())]
    y64 = F.linear(*exact)
    y64.backward(dy.double())
    torch.testing.assert_close(y, y64.float(), rtol=1e-5, atol=1e-5)
    for mine, theirs in zip((x, *ours.parameters()), exact):
        torch.testing.assert_close(mine.grad, theirs.grad.float(), rtol=1e-5, atol=1e-5)


def test_rows_that_are_not_contiguous_are_read_as_they_lie():
    ours = layer(bias=False)
    x = torch.randn(24, 7).t()
    torch.testing.assert_close(ours(x), F.linear(x, ours.weight), rtol=1e-5, atol=1e-5)


def test_only_what_is_asked_for_gets_a_gradient():
    ours = layer(bias=True)
    ours.weight.requires_grad_(False)
    x = torch.randn(3, 24)
    ours(x).sum().backward()
    assert ours.weight.grad is None
    torch.testing.assert_close(ours.bias.grad, torch.full((40,), 3.0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_go_the_usual_way(dtype):
    ours = layer(bias=True).to(dtype)
    x = torch.randn(3, 24, dtype=dtype)
    assert torch.equal(ours(x), F.linear(x, ours.weight, ours.bias))


def test_under_autocast_the_product_is_narrow():
    ours = layer(bias=False)
    x = torch.randn(3, 24)
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(x).dtype == torch.bfloat16


@pytest.mark.parametrize("policy", POLICIES)
def test_a_model_keeps_its_names_and_gradients(policy):
    torch.manual_seed(2)
    plain, ours = Transformer(CONFIG), Transformer(CONFIG)
    ours.load_state_dict(plain.state_dict())
    use_onednn(ours)
    recompute(ours, policy)
    tokens = torch.randint(0, 97, (2, 9))
    for model in (plain, ours):
        model(tokens).logsumexp(-1).sum().backward()
    for (name, mine), (known, theirs) in zip(ours.named_parameters(), plain.named_parameters()):
        assert name == known
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5, msg=lambda m: f"{name}: {m}")
    assert ours.lm_head.weight is ours.embed.weight
