"""Damaged, cut, foreign and hostile files: one clear error that names the file and the tensor."""

import json
import struct

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from aiinfra.errors import LoadError
from aiinfra.checkpoint import chat_template, load
from aiinfra.checkpoint.gguf_weights import config_from_gguf
from aiinfra.checkpoint.gguf import GGUFFile
from tests.checkpoint.small_models import our_model, reference_model


@pytest.fixture
def folder(tmp_path):
    reference_model("llama tied").save_pretrained(tmp_path)
    return tmp_path


def edit_config(folder, **changes) -> None:
    path = folder / "config.json"
    raw = json.loads(path.read_text())
    raw.update(changes)
    path.write_text(json.dumps({k: v for k, v in raw.items() if v != "REMOVE"}))


def cut_gguf(gguf_path, tmp_path, nbytes: int):
    path = tmp_path / "cut.gguf"
    with gguf_path.open("rb") as f:
        path.write_bytes(f.read(nbytes))
    return path


def test_gguf_cut_in_its_data(gguf_path, tmp_path) -> None:
    with pytest.raises(LoadError, match=r"cut.gguf: tensor blk\.\d+\.\w+\.weight needs bytes up to [\d,]+, and the file ends at 40,000,000"):
        load(cut_gguf(gguf_path, tmp_path, 40_000_000))


@pytest.mark.parametrize("nbytes", [0, 3, 10, 100, 5_000, 1_000_000])
def test_gguf_cut_in_its_header(nbytes: int, gguf_path, tmp_path) -> None:
    with pytest.raises(LoadError, match="cut.gguf"):
        load(cut_gguf(gguf_path, tmp_path, nbytes))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 1_700), value=st.integers(0, 255))
def test_gguf_with_a_wrong_byte(at: int, value: int, gguf_path, tmp_path) -> None:
    """Any byte of the header's first part changed: a clear error, or a file that still makes sense."""
    path = tmp_path / "flipped.gguf"
    if not path.exists():
        path.write_bytes(gguf_path.read_bytes())
    with path.open("r+b") as f:
        f.seek(at)
        original = f.read(1)
        f.seek(at)
        f.write(bytes([value]))
    try:
        file = GGUFFile(path)
        config_from_gguf(file.metadata, set(file.tensors), path.name)
    except LoadError as error:
        assert "flipped.gguf" in str(error) or "must be" in str(error) or "multiple" in str(error) or "odd" in str(error)
    finally:
        with path.open("r+b") as f:
            f.seek(at)
            f.write(original)


def test_not_a_gguf(tmp_path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(LoadError, match="not a GGUF file"):
        load(tmp_path / "x.gguf")


def test_gguf_of_another_architecture(tmp_path, gguf_path) -> None:
    head = gguf_path.read_bytes()[:200_000]
    place = head.index(b"general.architecture") + len(b"general.architecture") + 4
    assert head[place:place + 8] == struct.pack("<Q", 5)
    meta = {"general.architecture": "mamba"}
    with pytest.raises(LoadError, match="'mamba' is not supported. Supported: llama, qwen2, qwen3"):
        config_from_gguf(meta, set(), "x.gguf")


def test_safetensors_cut_short(folder) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(LoadError, match=r"model.safetensors is cut short: tensor model\.\S+ needs bytes up to"):
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


@pytest.mark.parametrize("changes, message", [
    ({"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM is not supported. Supported: LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM"),
    ({"hidden_size": "REMOVE"}, "no 'hidden_size'"),
    ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type 'yarn' is not supported. Supported: default, linear, llama3"),
    ({"hidden_act": "gelu"}, "hidden_act='gelu' is not supported"),
    ({"attention_bias": True}, "attention_bias=True is not supported"),
    ({"num_key_value_heads": 4}, "num_attention_heads=6 is not a multiple of num_key_value_heads=4"),
    ({"num_hidden_layers": 0}, "num_hidden_layers=0; it must be an integer of at least 1"),
    ({"head_dim": 7}, "head_dim=7 is odd"),
    ({"num_attention_heads": 0}, "num_attention_heads=0; it must be an integer of at least 1"),
    ({"hidden_size": "48"}, "hidden_size=.48.; it must be an integer of at least 1"),
    ({"rope_scaling": "linear"}, "config.json is damaged"),
    ({"rope_scaling": {"rope_type": "linear"}}, "config.json is damaged, or of a form that is not known .KeyError: 'factor'"),
    ({"rope_scaling": {"rope_type": "linear", "factor": 0}}, "rope scaling factor 0.0; it must be above 0"),
    ({"architectures": "MambaForCausalLM"}, "architecture MambaForCausalLM is not supported"),
])
def test_config_that_is_not_supported(changes: dict, message: str, folder) -> None:
    edit_config(folder, **changes)
    with pytest.raises(LoadError, match=message):
        our_model(folder)


@pytest.mark.parametrize("content, message", [
    (b"{not json", "is not valid JSON"), (b"\xff\xfe\x00", "is not valid JSON in UTF-8"), (b"[1]", "holds a list"),
])
def test_config_that_is_no_json(content: bytes, message: str, folder) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(LoadError, match=message):
        our_model(folder)


def test_folder_without_a_tokenizer(folder) -> None:
    with pytest.raises(LoadError, match="has no tokenizer.json"):
        load(folder)


def test_tokenizer_that_is_no_tokenizer(folder) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(LoadError, match="tokenizer.json cannot be used"):
        load(folder)


def test_folder_that_is_no_model(tmp_path) -> None:
    with pytest.raises(LoadError, match="has no config.json: it is not a Hugging Face model folder"):
        load(tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"x")
    with pytest.raises(LoadError, match="neither a folder nor a .gguf file"):
        load(tmp_path / "weights.bin")


def test_cuda_without_a_gpu(gguf_path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ValueError, match="No GPU: .* Use device='cpu'"):
        load(gguf_path, device="cuda")


def test_unknown_dtype(gguf_path) -> None:
    with pytest.raises(ValueError, match="dtype='int3' is not known. Use one of: float32"):
        load(gguf_path, dtype="int3")


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__init__.__globals__ }}",
    "{{ raise_exception.__globals__['__builtins__'] }}",
    "{{ cycler.__init__.__globals__.os.popen('true').read() }}",
    "{% set _ = messages.append(1) %}",
]


@pytest.mark.parametrize("template", ESCAPES)
def test_template_that_tries_to_escape(template: str) -> None:
    with pytest.raises(LoadError, match="sandbox|cannot be rendered"):
        rendered = chat_template.render(template, [{"role": "user", "content": "x"}])
        assert rendered == "", f"the template saw {rendered!r}"
        raise LoadError("nothing was shown: stopped in the sandbox")


@pytest.mark.parametrize("template, error, message", [
    ("{% for %}", LoadError, "cannot be rendered"),
    ("{{ raise_exception('roles must alternate') }}", ValueError, "refuses these messages: roles must alternate"),
])
def test_template_that_is_broken_or_refuses(template: str, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        chat_template.render(template, [{"role": "user", "content": "x"}])


@pytest.mark.parametrize("template", ["{{ range(10**6) | list }}", "{{ 1 / 0 }}", "{{ '{0}'.format() }}", "{{ nothing.at.all }}"])
def test_template_that_fails(template: str) -> None:
    with pytest.raises(LoadError, match="cannot be rendered"):
        chat_template.render(template, [{"role": "user", "content": "x"}])


@pytest.mark.parametrize("device", ["gpu", "meta", "cuda:99"])
def test_device_that_is_not_there(device: str, gguf_path) -> None:
    with pytest.raises(ValueError, match="is not known. Use 'cpu'|No GPU|this machine has"):
        load(gguf_path, device=device)


@pytest.mark.parametrize("missing", ["tokens", "merges"])
def test_gguf_without_a_vocabulary(missing: str, gguf_path) -> None:
    from aiinfra.checkpoint import Tokenizer
    meta = GGUFFile(gguf_path).metadata
    del meta[f"tokenizer.ggml.{missing}"]
    with pytest.raises(LoadError, match="x.gguf is damaged, or of a form that is not known"):
        Tokenizer.from_gguf(meta, "x.gguf")


@pytest.mark.parametrize("messages", [[], "hi", [{"role": "user"}], ["hi"], None])
def test_messages_of_the_wrong_form(messages) -> None:
    with pytest.raises(ValueError, match="messages must be|message 0 must be"):
        chat_template.render("{{ messages }}", messages)


