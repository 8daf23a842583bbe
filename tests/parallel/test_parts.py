"""A split model is the same model: same numbers, and names that no mesh changes."""

import pytest
import torch

from aiinfra.compress.packed import pack
from aiinfra.model import MoEConfig, Transformer
from aiinfra.model.mla_config import MLAConfig
from aiinfra.parallel.parts import CUTS, cut_of, join_parts, split_parts
from tests.parallel.small import EXPERTS, LATENT, VARIANTS, small_config, small_model


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_split_model_computes_the_same(variant: str) -> None:
    whole, split = small_model(variant), small_model(variant)
    split_parts(split)
    tokens = torch.randint(0, whole.config.vocab_size, (11,))
    expected, logits = whole(tokens), split(tokens)
    torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)
    expected.square().sum().backward()
    logits.square().sum().backward()
    attention, parts = whole.layers[1].attention.qkv, split.layers[1].attention.qkv
    gradients = torch.cat([parts.q.weight.grad, parts.k.weight.grad, parts.v.weight.grad])
    torch.testing.assert_close(gradients, attention.weight.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_joined_again_it_is_what_it_was(variant: str) -> None:
    before, after = small_model(variant), small_model(variant)
    split_parts(after)
    split_parts(after)                                  # a second time changes nothing
    join_parts(after)
    expected, found = before.state_dict(), after.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_parts_have_names_of_their_own() -> None:
    model = small_model("biases")
    split_parts(model)
    names = [name for name, _ in model.named_parameters() if name.startswith("layers.0.")]
    assert [name for name in names if "qkv" in name or "gate_up" in name] == [
        f"layers.0.{stack}.{part}.{leaf}"
        for stack, parts in (("attention.qkv", "q k v"), ("mlp.gate_up", "gate up"))
        for part in parts.split() for leaf in ("weight", "bias")]


def test_a_tied_table_stays_one_and_weights_without_gradients_stay_so() -> None:
    model = small_model("tied")
    model.requires_grad_(False)
    split_parts(model)
    assert model.lm_head.weight is model.embed.weight
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_model_without_memory_is_split_too() -> None:
    with torch.device("meta"):
        model = Transformer(small_config())
    split_parts(model)
    K, Dh = model.config.num_key_value_heads, model.config.head_dim
    weight = model.layers[0].attention.qkv.v.weight
    assert weight.is_meta and weight.shape == (K * Dh, model.config.hidden_size)


def test_every_layer_has_a_row_and_every_row_a_layer() -> None:
    latents = [MLAConfig(**LATENT), MLAConfig(**LATENT | {"q_lora_rank": None})]
    kinds = [small_model("biases and qk norm"), small_model(moe=MoEConfig(**EXPERTS)),
             *(small_model(mla=latent, num_key_value_heads=8, head_dim=2) for latent in latents)]
    layers = {name for model in kinds for name, module in model.named_modules()
              if list(module.parameters(recurse=False))}
    assert {cut_of(layer).layer for layer in layers} == {cut.layer for cut in CUTS}


def test_a_layer_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match="layers.3.attention.kqv.*Did you mean 'attention.qkv'"):
        cut_of("layers.3.attention.kqv")
    assert cut_of("layers.12.attention.qkv.v").layer == "attention.qkv"
    assert cut_of("layers.0.attention.out").dimension("weight") == 1
    assert cut_of("layers.0.attention.out").dimension("bias") is None


def test_a_packed_model_is_refused() -> None:
    model = small_model("tied").float()
    pack(model)
    with pytest.raises(ValueError, match="packed=False"):
        split_parts(model)


def test_heads_are_not_torn() -> None:
    config = small_config()
    model = Transformer(config)
    stack = model.layers[0].attention.qkv.weight.detach().clone()
    split_parts(model)
    q, k, v = model.layers[0].attention.qkv.children()
    rows = [len(part.weight) for part in (q, k, v)]
    assert rows == [config.num_attention_heads * config.head_dim] + 2 * [
        config.num_key_value_heads * config.head_dim]
    assert torch.equal(v.weight, stack[-rows[2]:])
