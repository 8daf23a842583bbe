"""The decoder: one computation, whatever its tokens' shape and whichever path its kernels take."""

import ast
import re
from pathlib import Path

import pytest
import torch
from tests.kernels.kernel_checks import on_device  # noqa: F401

from aiinfra.model import Transformer, attention, layers
from aiinfra.model.config import ModelConfig

SMALL = dict(vocab_size=61, hidden_size=48, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2,
             head_dim=16,
             intermediate_size=40)


@pytest.fixture
def choose(monkeypatch):
    """Make every kernel wrapper below the model choose Triton, or PyTorch."""
    def switch(chosen: str) -> None:
        import aiinfra.kernels.flash_attention as f
        import aiinfra.kernels.rmsnorm as n
        import aiinfra.kernels.rope as r
        import aiinfra.kernels.swiglu as s
        for module in (f, n, r, s, layers, attention):
            monkeypatch.setattr(module, "pick_backend", lambda tensor, backend: chosen)
    return switch


@pytest.mark.parametrize("extra", [{}, {"qk_norm": True}, {"qkv_bias": True, "tie_word_embeddings": True}])
@pytest.mark.parametrize("shape", [(9,), pytest.param((2, 17), marks=pytest.mark.slow)])
@pytest.mark.usefixtures("on_device")
def test_the_path_of_a_gpu_gives_the_same_logits_and_gradients(extra: dict, shape: tuple, choose) -> None:
    """Norms, rotations, gates and attention in Triton, interpreted where there is no GPU."""
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
    choose("torch")
    expected, expected_grads = run()
    choose("triton")
    logits, grads = run()
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    for got, want in zip(grads, expected_grads):
        assert (got - want).norm() <= 1e-3 * want.norm()


def test_flat_tokens_equal_a_batch_of_one(ours) -> None:
    model, tokenizer = ours
    ids = torch.tensor(tokenizer.encode("No batch dimension is needed."))
    with torch.inference_mode():
        assert (model(ids) - model(ids[None])[0]).abs().max() < 1e-3


def test_a_layer_is_the_two_clear_lines() -> None:
    """The fused sum and norm hide no other arithmetic."""
    torch.manual_seed(0)
    model = Transformer(ModelConfig(**SMALL))
    layer, x = model.layers[0], torch.randn(7, 48)
    angles = model.rotary(torch.arange(7), torch.float32)
    clear = x + layer.attention(layer.attention_norm(x), angles, None)
    clear = clear + layer.mlp(layer.mlp_norm(clear))
    torch.testing.assert_close(sum(layer(x, None, angles, None)), clear)
    half = torch.randn(7, 48)                     # a sum that the layer before has left to this one's norm
    torch.testing.assert_close(sum(layer(x - half, half, angles, None)), clear, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tied", [False, True])
def test_bytes_that_a_pass_reads(tied: bool) -> None:
    """All weights once; a table that is only looked up does not count."""
    model = Transformer(ModelConfig(**SMALL, tie_word_embeddings=tied, qkv_bias=True, qk_norm=True))
    every = sum(parameter.nbytes for parameter in model.parameters())
    assert model.weight_bytes() == every - (0 if tied else model.embed.weight.nbytes)


def test_positions_continue_from_zero() -> None:
    torch.manual_seed(0)
    model = Transformer(ModelConfig(**SMALL))
    tokens = torch.randint(0, 61, (2, 5))
    assert torch.equal(model(tokens), model(tokens, torch.arange(5)))
    assert torch.equal(model.lm_head(model.hidden(tokens)), model(tokens))


def test_what_writes_to_the_stream_starts_smaller() -> None:
    """GPT-2's rule: the variance of the residual stream does not grow with depth."""
    torch.manual_seed(0)
    model = Transformer(ModelConfig(**{**SMALL, "num_hidden_layers": 8}, qkv_bias=True))
    layer = model.layers[3]
    assert layer.attention.out.weight.std().item() == pytest.approx(0.02 / 4, rel=0.1)
    assert layer.mlp.down.weight.std().item() == pytest.approx(0.02 / 4, rel=0.1)
    assert layer.attention.qkv.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not layer.attention.qkv.bias.any() and (layer.mlp_norm.weight == 1).all()


def test_the_model_knows_no_file_and_no_bit_width() -> None:
    """Packing, quantising, files and chats are applied from outside (compress/, checkpoint/)."""
    folder = Path(attention.__file__).parent
    words = re.compile(
        r"packed_weight|packedlinear|quanti[sz]|int4|int8|gguf|safetensors|"
        r"download|chat|pathlib|open\(|(?<!lora_)rank\b",
        re.IGNORECASE,
    )
    found = []
    for path in sorted(folder.glob("*.py")):
        code = ast.parse(path.read_text())
        for node in ast.walk(code):                        # what runs; prose may say what is elsewhere
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                node.value = ast.Constant("")
        found += [f"{path.name}: {line}" for line in ast.unparse(code).splitlines() if words.search(line)]
    assert not found
