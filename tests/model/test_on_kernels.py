"""The path that a GPU takes: the same model with its norms, rotations, gates and attention in Triton, interpreted."""

import pytest
import torch

from aiinfra.model import Transformer, attention, layers
from aiinfra.model.config import ModelConfig

SMALL = dict(vocab_size=61, hidden_size=48, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2, head_dim=16,
             intermediate_size=40)


@pytest.fixture
def on_triton(monkeypatch):
    """Make every kernel wrapper below the model choose Triton."""
    def switch() -> None:
        import aiinfra.kernels.flash_attention as f
        import aiinfra.kernels.rmsnorm as n
        import aiinfra.kernels.rope as r
        import aiinfra.kernels.swiglu as s
        for module in (f, n, r, s, layers, attention):
            monkeypatch.setattr(module, "pick_backend", lambda tensor, backend: "triton")
    return switch


@pytest.mark.parametrize("extra", [{}, {"qk_norm": True}, {"qkv_bias": True, "tie_word_embeddings": True}])
@pytest.mark.parametrize("shape", [(9,), (2, 17)])
def test_logits_and_gradients_are_the_same(extra: dict, shape: tuple, on_triton) -> None:
    torch.manual_seed(0)
    model = Transformer(ModelConfig(**SMALL, **extra))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if parameter.ndim == 1 else 0.0, std=0.2)
    tokens = torch.randint(0, 61, shape)
    probe = torch.randn(*shape, 61)

    def run() -> tuple[torch.Tensor, list[torch.Tensor]]:
        model.zero_grad()
        logits = model(tokens)
        (logits * probe).sum().backward()
        return logits.detach(), [p.grad.clone() for p in model.parameters()]
    expected, expected_grads = run()
    on_triton()
    logits, grads = run()
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    for got, want in zip(grads, expected_grads):
        assert (got - want).norm() <= 1e-3 * want.norm()
