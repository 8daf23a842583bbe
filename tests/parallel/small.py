"""Small models in float64, every weight random, as all ranks of a test make them alike."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from aiinfra.model import ModelConfig, Transformer
from aiinfra.model.packed_documents import PackedDocuments
from aiinfra.train.data import IGNORED, MicroBatch

SMALL = {"vocab_size": 48, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 8,
         "num_key_value_heads": 4, "head_dim": 6, "intermediate_size": 32, "max_position_embeddings": 128}
VARIANTS = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "biases": {"qkv_bias": True, "out_bias": True, "mlp_bias": True},
    "qk norm": {"qk_norm": True},
    "biases and qk norm": {"qkv_bias": True, "out_bias": True, "mlp_bias": True, "qk_norm": True},
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "n_shared_experts": 1,
           "first_k_dense_replace": 1, "router_aux_loss_coef": 0.1}
LATENT = {"kv_lora_rank": 10, "qk_nope_head_dim": 4, "qk_rope_head_dim": 2, "v_head_dim": 5,
          "q_lora_rank": 7}


def small_config(variant: str = "plain", **changes: Any) -> ModelConfig:
    """A config of the variant; `changes` go before."""
    return ModelConfig(**{**SMALL, **VARIANTS[variant], **changes})


def small_model(variant: str = "plain", seed: int = 0, **changes: Any) -> Transformer:
    """A model in float64. Norms and biases are random, too: what is 1 or 0 hides a fault."""
    torch.manual_seed(seed)
    model = Transformer(small_config(variant, **changes)).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, mean=1.0 if parameter.ndim == 1 else 0.0, std=0.3)
    return model


def small_batch(lengths: tuple[int, ...] = (7, 1, 9, 6), vocabulary: int = 48, seed: int = 1) -> MicroBatch:
    """Packed documents of these lengths, some of whose targets are not learnt from."""
    random = torch.Generator().manual_seed(seed)
    N = sum(lengths)
    targets = torch.randint(0, vocabulary, (N,), generator=random)
    targets[torch.rand(N, generator=random) < 0.3] = IGNORED
    borders = torch.tensor([0, *lengths]).cumsum(0).int()
    return MicroBatch(
        tokens=torch.randint(0, vocabulary, (N,), generator=random),
        targets=targets,
        positions=torch.cat([torch.arange(length) for length in lengths]),
        documents=PackedDocuments(borders, longest=max(lengths)),
        valid=int((targets != IGNORED).sum()),
        text_bytes=0)


def whole(value: Tensor) -> Tensor:
    """A value that is cut among ranks, put together. All ranks call it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Every gradient, whole."""
    return {name: whole(parameter.grad) for name, parameter in model.named_parameters()}


def assert_equal_to(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    """The same names, and values as near as float64 comes."""
    assert list(found) == list(expected)
    for name, value in expected.items():
        apart = (found[name] - value).abs().max() / value.abs().max()
        assert apart < tolerance, f"{name} is {apart:.1e} apart"
