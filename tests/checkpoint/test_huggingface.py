"""A folder of safetensors gives transformers' logits; a damaged one an error that names the file and the
tensor."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from aiinfra.errors import LoadError
from tests.checkpoint.test_huggingface_config import edit_config
from tests.checkpoint.small_models import CASES, LLAMA, our_model, reference_model


@pytest.fixture
def folder(tmp_path):
    reference_model("llama tied").save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_small_random_models(case: str, packed: bool, tmp_path) -> None:
    theirs = reference_model(case)
    theirs.save_pretrained(tmp_path)
    ours = our_model(tmp_path, packed)
    tokens = torch.randint(0, LLAMA["vocab_size"], (2, 150))
    with torch.inference_mode():
        expected, got = theirs(tokens).logits, ours(tokens)
    assert expected.abs().max() > 1, "logits near zero would agree with anything"
    assert (got - expected).abs().max() < 1e-4


@pytest.mark.parametrize("case", ["llama tied", "qwen3"])
def test_sharded_files(case: str, tmp_path) -> None:
    theirs = reference_model(case)
    theirs.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    tokens = torch.randint(0, LLAMA["vocab_size"], (1, 20))
    with torch.inference_mode():
        assert (our_model(tmp_path)(tokens) - theirs(tokens).logits).abs().max() < 1e-4


def test_layers_that_guess_further_are_left_out(tmp_path) -> None:
    """DeepSeek-V3's files have one behind the last; without a word of it in the config it has no place."""
    theirs = reference_model("deepseek v3")
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    more = {"model.layers.3.eh_proj.weight": torch.zeros(2), "model.layers.3.mlp.gate.weight": torch.zeros(2)}
    save_file({**load_file(path), **more}, path, metadata={"format": "pt"})
    edit_config(tmp_path, num_nextn_predict_layers=1)
    tokens = torch.randint(0, LLAMA["vocab_size"], (1, 20))
    with torch.inference_mode():
        assert (our_model(tmp_path)(tokens) - theirs(tokens).logits).abs().max() < 1e-4
    edit_config(tmp_path, num_nextn_predict_layers=0)
    with pytest.raises(LoadError, match="no place for model.layers.3.eh_proj.weight"):
        our_model(tmp_path)


def test_bfloat16_folder(tmp_path) -> None:
    theirs = reference_model("llama tied").bfloat16()
    theirs.save_pretrained(tmp_path)
    ours = our_model(tmp_path, dtype=torch.bfloat16)
    tokens = torch.randint(0, LLAMA["vocab_size"], (1, 30))
    with torch.inference_mode():
        got, expected = ours(tokens), theirs(tokens).logits
    assert got.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(got.float().flatten(), expected.float().flatten(), 0) > 0.999


def test_safetensors_cut_short(folder) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(LoadError,
                       match=r"model.safetensors is cut short: tensor model\.\S+ needs bytes up to"):
        our_model(folder)


def test_safetensors_with_a_broken_header(folder) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[8:40] = b"\xff" * 32
    path.write_bytes(data)
    with pytest.raises(LoadError, match="model.safetensors is damaged: its header cannot be read"):
        our_model(folder)


@pytest.mark.parametrize("nbytes", [0, 4, 8, 60])
def test_safetensors_almost_empty(nbytes: int, folder) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:nbytes])
    with pytest.raises(LoadError, match="model.safetensors"):
        our_model(folder)


@pytest.mark.parametrize("index", ["{}", '{"weight_map": [1]}', "[]"])
def test_index_of_another_form(index: str, tmp_path) -> None:
    reference_model("llama tied").save_pretrained(tmp_path, max_shard_size="40KB")
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(LoadError, match="model.safetensors.index.json"):
        our_model(tmp_path)


def test_missing_shard(tmp_path) -> None:
    reference_model("llama tied").save_pretrained(tmp_path, max_shard_size="40KB")
    sorted(tmp_path.glob("model-*.safetensors"))[1].unlink()
    with pytest.raises(LoadError, match=r"shard model-00002-of-\d+\.safetensors is missing"):
        our_model(tmp_path)
