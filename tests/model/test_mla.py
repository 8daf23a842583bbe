"""Latent attention: what is kept compressed gives what whole heads give, for every shape."""

from dataclasses import replace

import pytest
import torch

from aiinfra.compress import pack, quantize
from aiinfra.errors import LoadError
from aiinfra.model import KVCache, RopeScaling, Transformer
from aiinfra.model.packed_documents import PackedDocuments
from aiinfra.perf.memory import parameter_count, predict_memory
from aiinfra.perf.training import decoder_flops, matrix_weights
from tests.engine.small_model import random_model
from tests.model.small_mla import DEEPSEEK_V3, LATENT, latent

YARN = RopeScaling("factors", factors=(1.0, 0.5, 0.25, 0.25), amplitude=1.1, score_factor=1.4)
CONFIGS = {
    "DeepSeek-V3": LATENT,
    "queries from the input, halves": latent({"q_lora_rank": None, "rope_interleave": False}),
    "wide values, biases": latent({"v_head_dim": 30}, out_bias=True),
    "stretched": replace(LATENT, rope_scaling=YARN),
    "one head": latent({"kv_lora_rank": 5}, num_attention_heads=1, num_key_value_heads=1),
}
TOKENS = torch.randint(0, 53, (2, 30), generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=CONFIGS)
def model(request) -> Transformer:
    return random_model(CONFIGS[request.param]).double()


@torch.inference_mode()
def test_compressed_gives_what_whole_heads_give(model: Transformer) -> None:
    cache = KVCache(model.config, 30, batch=2, dtype=torch.float64)
    whole = model(TOKENS)
    pieces = [model(piece, kv=cache) for piece in TOKENS.split([20, 1, 1, 8], 1)]
    assert whole.abs().max() > 1, "logits near zero would agree with anything"
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-11, atol=1e-11)


def test_what_is_kept_is_the_formula(model: Transformer) -> None:
    config = model.config
    values = config.num_hidden_layers * (config.mla.kv_lora_rank + config.mla.qk_rope_head_dim)
    assert config.kv_values_per_token == values and config.kv_bytes_per_token == 4 * values
    assert KVCache(config, 7, batch=3).nbytes == 21 * config.kv_bytes_per_token


def test_deepseek_v3_keeps_576_values_a_layer() -> None:
    assert DEEPSEEK_V3.kv_values_per_token == 61 * 576
    heads = replace(DEEPSEEK_V3, mla=None, head_dim=128)
    assert heads.kv_values_per_token == 61 * 2 * 128 * 128


def test_the_scale_is_that_of_a_whole_head() -> None:
    """A model whose scores are multiplied by four is one whose queries are."""
    model = random_model(latent({"q_lora_rank": None})).double()
    scaled = random_model(replace(model.config, rope_scaling=replace(YARN, factors=(1.0,) * 4, amplitude=1.0,
                                                                    score_factor=4.0))).double()
    before = model(TOKENS)
    assert (scaled(TOKENS) - before).abs().max() > 0.1
    for layer in model.layers:
        layer.attention.q.weight.data *= 4
    torch.testing.assert_close(scaled(TOKENS), model(TOKENS))


def test_documents_in_one_row_do_not_see_one_another(model: Transformer) -> None:
    documents = PackedDocuments(torch.tensor([0, 9, 23, 30], dtype=torch.int32), longest=14)
    row, cuts = TOKENS[0], [9, 14, 7]
    positions = torch.cat([torch.arange(n) for n in cuts])
    together = model(row, positions, documents)
    alone = [model(document) for document in row.split(cuts)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_gradients() -> None:
    model = random_model(replace(LATENT, num_hidden_layers=1, num_attention_heads=2,
                                 num_key_value_heads=2)).double()
    attention = model.layers[0].attention
    angles = model.rotary(torch.arange(4), torch.float64)
    x = torch.randn(4, 32, dtype=torch.float64, requires_grad=True)
    weights = [parameter.requires_grad_() for parameter in attention.parameters()]
    assert torch.autograd.gradcheck(lambda x, *_: attention(x, angles, None), (x, *weights), fast_mode=True)


@torch.inference_mode()
def test_packed_and_quantised() -> None:
    """The matrix that is absorbed stays as it is, all others are replaced."""
    wide = {"q_lora_rank": 64, "kv_lora_rank": 56, "qk_nope_head_dim": 24, "v_head_dim": 16}
    config = latent(wide, hidden_size=64, intermediate_size=128, vocab_size=64)
    before = random_model(config)(TOKENS)
    packed = pack(random_model(config))
    torch.testing.assert_close(packed(TOKENS), before, rtol=1e-4, atol=1e-4)
    quantised = quantize(random_model(config), "int8")
    kinds = {name: type(part).__name__ for name, part in quantised.layers[0].attention.named_children()}
    assert kinds["kv_b"] == "LatentUp" and kinds["q_b"] == kinds["kv_a"] == "Int8Linear"
    similar = torch.nn.functional.cosine_similarity(quantised(TOKENS), before, -1)
    assert similar.min() > 0.95
    cache = KVCache(config, 30, batch=2)
    torch.testing.assert_close(quantised(TOKENS, kv=cache), quantised(TOKENS), rtol=1e-3, atol=1e-3)


def test_weights_and_arithmetic_are_counted(model: Transformer) -> None:
    config = model.config
    tables = 2 * config.vocab_size * config.hidden_size
    total = sum(parameter.numel() for parameter in model.parameters())
    assert parameter_count(config) == total
    matrices = [parameter.numel() for parameter in model.parameters() if parameter.ndim == 2]
    assert matrix_weights(config) == sum(matrices) - tables // 2
    pairs = 30 * 31 / 2
    head = config.mla.qk_nope_head_dim + config.mla.qk_rope_head_dim + config.mla.v_head_dim
    attention = 6 * config.num_hidden_layers * config.num_attention_heads * head * pairs
    assert decoder_flops(config, [30]) == 6 * matrix_weights(config) * 30 + attention
    with pytest.raises(ValueError, match="not predicted for latent attention"):
        predict_memory(config, [30])


@pytest.mark.parametrize("mla, others, message", [
    ({"v_head_dim": 0}, {}, "v_head_dim=0; it must be an integer of at least 1"),
    ({"kv_lora_rank": 0}, {}, "kv_lora_rank=0"), ({"q_lora_rank": -1}, {}, "q_lora_rank=-1"),
    ({}, {"head_dim": 16}, "head_dim=16, qk_rope_head_dim=8"),
    ({}, {"num_key_value_heads": 2}, "num_key_value_heads=2; with latent attention each of"),
    ({}, {"qkv_bias": True}, "qkv_bias and qk_norm are not known"),
    ({"qk_rope_head_dim": 7}, {"head_dim": 7}, "head_dim=7 is odd"),
])
def test_numbers_that_do_not_belong_together(mla: dict, others: dict, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        latent(mla, **others)
