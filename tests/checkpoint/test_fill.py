"""Every parameter is filled, and nothing in a file is left over without a word."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from aiinfra.checkpoint.fill import layers_of
from aiinfra.errors import LoadError
from tests.checkpoint.small_gguf import gguf_model, write_gguf
from tests.checkpoint.small_models import CASES, LLAMA, our_model, reference_model

TOKENS = torch.randint(0, LLAMA["vocab_size"], (1, 30), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def folder(tmp_path):
    reference_model("llama tied").save_pretrained(tmp_path)
    return tmp_path


def add(folder, **tensors: torch.Tensor) -> None:
    """Put more tensors into the folder's file."""
    path = folder / "model.safetensors"
    save_file({**load_file(path), **tensors}, path, metadata={"format": "pt"})


LEFT_OVER = {
    "attention biases": ["model.layers.1.self_attn.q_proj.bias"],
    "query norms": ["model.layers.0.self_attn.q_norm.weight"],
    "experts": ["model.layers.0.mlp.experts.7.up_proj.weight", "model.layers.0.mlp.gate.weight"],
    "a fourth layer": ["model.layers.3.input_layernorm.weight"],
    "scales of int8 weights": ["model.layers.2.mlp.down_proj.weight_scale"],
    "a vision tower": ["vision_tower.patch_embed.weight"],
}


@pytest.mark.parametrize("kind", LEFT_OVER)
def test_what_a_folder_has_and_the_model_has_not(kind: str, folder) -> None:
    add(folder, **{name: torch.ones(4) for name in LEFT_OVER[kind]})
    with pytest.raises(LoadError, match=rf"{folder.name}: this model has no place for {LEFT_OVER[kind][0]}"):
        our_model(folder)


def test_int8_weights_with_their_scales(folder) -> None:
    """A checkpoint of another kind under the same names: numbers without their rulers are no weights."""
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if "mlp" in name]:
        scale = tensors[name].abs().amax(1) / 127
        tensors[name] = (tensors[name] / scale[:, None]).round().to(torch.int8)
        tensors[f"{name}_scale"] = scale
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(
        LoadError, match=r"no place for model\.layers\.0\.mlp\.down_proj\.weight_scale, .* and 6 more tensors"
    ):
        our_model(folder)


def test_what_stands_in_a_shard_and_not_in_its_index(tmp_path) -> None:
    reference_model("llama tied").save_pretrained(tmp_path, max_shard_size="40KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[0]
    save_file({**load_file(shard), "model.layers.0.self_attn.k_proj.bias": torch.ones(16)}, shard)
    with pytest.raises(LoadError, match=r"no place for model\.layers\.0\.self_attn\.k_proj\.bias"):
        our_model(tmp_path)


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.rotary_emb.inv_freq",
                                  "model.rotary_emb.inv_freq"])
def test_rotary_frequencies_carry_no_weights(name: str, folder) -> None:
    expected = our_model(folder)(TOKENS)
    add(folder, **{name: torch.ones(4)})
    assert torch.equal(our_model(folder)(TOKENS), expected)


def test_a_last_layer_that_repeats_the_tied_table(folder) -> None:
    expected = our_model(folder)(TOKENS)
    add(folder,
        **{"lm_head.weight": load_file(folder / "model.safetensors")["model.embed_tokens.weight"].clone()})
    model = our_model(folder)
    assert model.lm_head.weight is model.embed.weight and torch.equal(model(TOKENS), expected)


@pytest.mark.parametrize("case", ["llama tied", "qwen2 tied", "qwen3 tied"])
def test_a_last_layer_that_differs_from_the_tied_table(case: str, tmp_path) -> None:
    """As in transformers: the file is right, the config that says tied is wrong."""
    reference_model(case).save_pretrained(tmp_path)
    table = load_file(tmp_path / "model.safetensors")["model.embed_tokens.weight"]
    add(tmp_path, **{"lm_head.weight": table.flip(0).clone()})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ours = our_model(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"]
    assert not ours.config.tie_word_embeddings and torch.equal(ours.lm_head.weight, table.flip(0))
    with torch.inference_mode():
        assert (ours(TOKENS) - theirs(TOKENS).logits).abs().max() < 1e-4


@pytest.mark.parametrize("name", [
    "blk.1.attn_q.bias", "blk.0.attn_q_norm.weight", "blk.0.ffn_gate_exps.weight", "blk.3.attn_norm.weight",
    "blk.2.ffn_down.scale",
])
def test_what_a_gguf_file_has_and_the_model_has_not(name: str, tmp_path) -> None:
    path = write_gguf(tmp_path / "small.gguf", reference_model("llama tied"), {name: torch.ones(32)})
    with pytest.raises(LoadError, match=rf"small.gguf: this model has no place for {name}"):
        gguf_model(path)


@pytest.mark.parametrize("name", ["model.layers.1.self_attn.k_proj.weight", "model.norm.weight"])
def test_tensor_of_the_wrong_shape(name: str, folder) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = torch.zeros(tensors[name].shape[0] + 1, *tensors[name].shape[1:])
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(LoadError, match=rf"{name} \[.*the model's config asks for"):
        our_model(folder)


def test_missing_tensor_names_the_nearest(folder) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(LoadError, match=r"no tensor model\.layers\.1\.mlp\.up_proj\.weight\. Did you mean"):
        our_model(folder)


# The order of reading

def test_a_tied_last_layer_comes_with_its_embedding(folder) -> None:
    names = layers_of(our_model(folder))
    assert names[:2] == ["embed", "lm_head"] and names[-1] == "norm"
    assert len(names) == len(set(names)) == 3 + 6 * LLAMA["num_hidden_layers"]


@pytest.mark.parametrize("case", CASES)
def test_every_parameter_belongs_to_one_layer(case: str, tmp_path) -> None:
    reference_model(case).save_pretrained(tmp_path)
    model = our_model(tmp_path)
    named = {f"{layer}.{leaf}" for layer in layers_of(model)
             for leaf, _ in model.get_submodule(layer).named_parameters(recurse=False)}
    assert named == {name for name, _ in model.named_parameters(remove_duplicate=False)}
