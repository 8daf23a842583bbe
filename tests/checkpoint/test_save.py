"""What is saved is what is read again, by us and by transformers, for every family that we load."""

import json
import sys
from dataclasses import replace

import pytest
import torch
import transformers
from safetensors.torch import load_file

from aiinfra.checkpoint import Tokenizer, load, save
from aiinfra.checkpoint.huggingface import HuggingFaceFolder
from aiinfra.compress import pack, quantize
from aiinfra.model import ModelConfig, RopeScaling, Transformer
from tests.checkpoint.small_models import CASES, our_model, reference_model

TOKENS = torch.randint(0, 97, (2, 100), generator=torch.Generator().manual_seed(1))
SMALL = ModelConfig(vocab_size=192, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
                    num_attention_heads=4,
                    num_key_value_heads=2, head_dim=16)


@pytest.fixture(params=CASES)
def folders(request, tmp_path):
    """A folder that transformers wrote, and one where we saved what we read from it."""
    theirs, mine = tmp_path / "theirs", tmp_path / "mine"
    reference_model(request.param).save_pretrained(theirs)
    save(our_model(theirs), mine)
    return theirs, mine


def test_our_own_load_gives_the_same_model(folders) -> None:
    theirs, mine = folders
    before, after = our_model(theirs), our_model(mine)
    assert before.config == after.config
    saved, kept = after.state_dict(), before.state_dict()
    assert saved.keys() == kept.keys() and all(torch.equal(saved[name], kept[name]) for name in kept)
    assert torch.equal(before(TOKENS), after(TOKENS))


def test_transformers_gives_equal_logits(folders) -> None:
    theirs, mine = (transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
                    for folder in folders)
    with torch.inference_mode():
        assert torch.equal(theirs(TOKENS).logits, mine(TOKENS).logits)


def test_the_files_hold_the_same_tensors(folders) -> None:
    theirs, mine = (load_file(folder / "model.safetensors") for folder in folders)
    assert theirs.keys() == mine.keys()
    assert all(torch.equal(theirs[name], mine[name]) for name in theirs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tied", [False, True])
def test_small_types_stay_as_they_are(dtype: torch.dtype, tied: bool, tmp_path) -> None:
    torch.manual_seed(0)
    model = Transformer(replace(SMALL, tie_word_embeddings=tied)).to(dtype)
    save(model, tmp_path)
    again = our_model(tmp_path, dtype=dtype)
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters(),
                                                             strict=True))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert theirs.dtype == dtype
    assert torch.equal(theirs.model.embed_tokens.weight, model.embed.weight)


def test_the_real_model_with_its_tokenizer(gguf_path, ours, reference_tokenizer, tmp_path) -> None:
    """From a GGUF file to a folder, and everything again from there: logits, ids, chats and where an answer
    ends."""
    model, tokenizer = load(gguf_path, packed=False, dtype="float32", device="cpu")
    save(model, tmp_path / "folder", tokenizer)
    again, tokenizer_again = load(tmp_path / "folder", dtype="float32", device="cpu")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "folder", dtype=torch.float32)
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "folder")
    chat = [{"role": "user", "content": "Name three  colours, 1 2 33."}]
    text = tokenizer.render_chat(chat)
    ids = tokenizer.encode(text)
    assert tokenizer_again.encode(text) == ids == their_tokenizer(text).input_ids
    assert tokenizer_again.render_chat(chat) == text
    assert their_tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == text
    assert tokenizer_again.eos_ids == tokenizer.eos_ids
    assert theirs.generation_config.eos_token_id == list(tokenizer.eos_ids)
    with torch.inference_mode():
        logits = model(torch.tensor([ids]))
        assert (again(torch.tensor([ids])) - logits).abs().max() < 1e-3
        assert (theirs(torch.tensor([ids])).logits - logits).abs().max() < 1e-3


@pytest.mark.parametrize("eos", [(), (7,), (7, 9)])
def test_the_ids_that_end_an_answer(eos: tuple[int, ...], tmp_path) -> None:
    save(Transformer(replace(SMALL, eos_token_ids=eos, bos_token_id=1)), tmp_path)
    assert HuggingFaceFolder(tmp_path).config.eos_token_ids == eos
    generation = json.loads((tmp_path / "generation_config.json").read_text())
    assert generation["eos_token_id"] == {0: None, 1: 7, 2: [7, 9]}[len(eos)]


def test_a_checkpoint_in_one_file_is_replaced(tmp_path) -> None:
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = Transformer(SMALL)
        save(model, tmp_path)
    assert torch.equal(our_model(tmp_path).embed.weight, model.embed.weight)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json", "generation_config.json", "model.safetensors"]


def test_half_a_save_is_no_model(tmp_path, monkeypatch) -> None:
    """What breaks off in the middle, over an older checkpoint, is not taken for either."""
    save(Transformer(SMALL), tmp_path)
    monkeypatch.setattr(sys.modules[save.__module__], "save_file", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(Transformer(SMALL), tmp_path)
    with pytest.raises(ValueError, match="has no config.json"):
        our_model(tmp_path)
    assert not [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")]


def test_a_folder_of_shards_is_left_alone(tmp_path) -> None:
    reference_model("llama tied").save_pretrained(tmp_path, max_shard_size="40KB")
    with pytest.raises(ValueError, match="holds a checkpoint in shards; save to another folder"):
        save(Transformer(SMALL), tmp_path)
    our_model(tmp_path)


def test_packed_and_quantised_models_are_refused(tmp_path) -> None:
    refusals = [
        (pack(Transformer(SMALL)), r"layers.0.attention.qkv is packed .* packed=False"),
        (quantize(Transformer(SMALL), "int8"),
         r"layers.0.attention.qkv is kept in int8: load the model without quantize"),
        (quantize(Transformer(SMALL), "int4"),
         r"layers.0.attention.qkv is kept in int4: load the model without quantize"),
    ]
    for model, message in refusals:
        with pytest.raises(ValueError, match=message):
            save(model, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_what_the_form_has_no_words_for(tmp_path) -> None:
    both = Transformer(replace(SMALL, qkv_bias=True, qk_norm=True))
    with pytest.raises(ValueError, match="no family of Hugging Face has both qkv_bias and qk_norm"):
        save(both, tmp_path / "folder")
    factors = RopeScaling("factors", factors=(1.0,) * 8)
    with pytest.raises(ValueError, match="rope scaling by 'factors'.*Hugging Face folder"):
        save(Transformer(replace(SMALL, rope_scaling=factors)), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_tokenizer_without_a_template(tmp_path, ours) -> None:
    """A template that an older save left there does not stay."""
    (tmp_path / "chat_template.jinja").write_text("old")
    plain = Tokenizer(ours[1].backend)
    plain.save(tmp_path)
    assert Tokenizer.from_folder(tmp_path).chat_template is None
    assert Tokenizer.from_folder(tmp_path).encode("two words") == ours[1].encode("two words")
