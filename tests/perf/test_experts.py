import pytest
import torch

from aiinfra.model import ModelConfig, MoEConfig, Transformer
from aiinfra.perf.experts import experts_hit, feed_forward_weights
from aiinfra.perf.memory import parameter_count, predict_memory
from aiinfra.perf.training import matrix_weights

DENSE = ModelConfig(vocab_size=64, hidden_size=16, num_hidden_layers=4, num_attention_heads=2,
                    num_key_value_heads=1, head_dim=8, intermediate_size=24)
MOE = MoEConfig(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=12, n_shared_experts=1,
                first_k_dense_replace=1)
MIXED = ModelConfig(**{**vars(DENSE), "moe": MOE})


def test_how_many_experts_are_hit():
    assert experts_hit(128, 8, 1) == pytest.approx(8) and experts_hit(8, 8, 3) == 8
    drawn = torch.rand(400, 64, 128, generator=torch.Generator().manual_seed(0)).topk(8).indices
    hit = torch.zeros(400, 128).scatter_(1, drawn[..., 0], 1.0).sum(1).mean()
    assert experts_hit(128, 1, 64) == pytest.approx(hit.item(), rel=0.02)


@pytest.mark.parametrize("config", [DENSE, MIXED], ids=["dense", "mixed"])
def test_counted_weights_are_the_models(config):
    with torch.device("meta"):
        model = Transformer(config)
    assert parameter_count(config) == sum(p.numel() for p in model.parameters())
    matrices = [p.numel() for name, p in model.named_parameters() if ".mlp." in name]
    assert feed_forward_weights(config).total == sum(matrices)


def test_a_token_meets_its_experts_alone():
    one = 3 * 16 * 12
    wanted = 3 * 16 * 24 + 3 * (16 * 8 + one * (2 + 1))
    assert feed_forward_weights(MIXED).active == wanted
    dense = matrix_weights(DENSE) - feed_forward_weights(DENSE).active
    assert matrix_weights(MIXED) == dense + wanted


def test_published_sizes():
    """Qwen3-235B-A22B: 235 billion weights, 22 of them active, says its model card."""
    moe = MoEConfig(num_experts=128, num_experts_per_tok=8, moe_intermediate_size=1536)
    config = ModelConfig(vocab_size=151_936, hidden_size=4096, num_hidden_layers=94, num_attention_heads=64,
                         num_key_value_heads=4, head_dim=128, intermediate_size=12_288, moe=moe)
    assert parameter_count(config) == pytest.approx(235e9, rel=0.005)
    active = matrix_weights(config) + config.vocab_size * config.hidden_size
    assert active == pytest.approx(22e9, rel=0.02)


def test_memory_of_a_mixture_is_not_guessed():
    with pytest.raises(ValueError, match="not predicted for a mixture of experts"):
        predict_memory(MIXED, [16])
