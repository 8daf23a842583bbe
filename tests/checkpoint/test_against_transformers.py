"""Our logits and tokens are transformers' logits and tokens, on the same weights."""

import json

import pytest
import torch
import transformers

from aiinfra.engine.generate import generate_cached
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.checkpoint import load
from aiinfra.compress import pack
from aiinfra.model import KVCache
from tests.checkpoint.small_models import CASES, LLAMA, our_model, reference_model
from aiinfra.checkpoint.huggingface_config import config_from_json

PROMPTS = [
    "The capital of France is", "Once upon a time", "def fibonacci(n):", "1, 1, 2, 3, 5, 8,", "Dear Sir or Madam,",
    "Water boils at", "The three primary colours are", "SELECT name FROM users WHERE", "In 1969, the first", "Q: 12 + 30 =\nA:",
    "A queue is a data structure that", "To be, or not to be,", "Die Hauptstadt von Deutschland ist", "import numpy as np\n", "<html>\n<body>\n",
    "My favourite food is", "The mitochondria is the", "Breaking news:", "Step 1: preheat the oven", "\n\n# Installation\n",
]

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


def test_config_in_the_older_form(tmp_path) -> None:
    """Checkpoints written before transformers 5 keep rope_theta and rope_scaling as two keys."""
    kind, settings = CASES["llama3 rope"]
    kind(**settings, architectures=["LlamaForCausalLM"]).save_pretrained(tmp_path)
    new = json.loads((tmp_path / "config.json").read_text())
    rope = new.pop("rope_parameters")
    old = {**new, "rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    assert config_from_json(old) == config_from_json({**new, "rope_parameters": {**rope, "rope_theta": 500000.0}})


def test_bfloat16_folder(tmp_path) -> None:
    theirs = reference_model("llama tied").bfloat16()
    theirs.save_pretrained(tmp_path)
    ours = our_model(tmp_path, dtype=torch.bfloat16)
    tokens = torch.randint(0, LLAMA["vocab_size"], (1, 30))
    with torch.inference_mode():
        got, expected = ours(tokens), theirs(tokens).logits
    assert got.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(got.float().flatten(), expected.float().flatten(), 0) > 0.999


@pytest.mark.parametrize("prompt", PROMPTS[:4])
def test_real_logits(prompt: str, ours, reference) -> None:
    model, tokenizer = ours
    tokens = torch.tensor([tokenizer.encode(prompt * 8)])
    with torch.inference_mode():
        assert (model(tokens) - reference(tokens).logits).abs().max() < 1e-3


def test_greedy_tokens_are_identical(ours, reference) -> None:
    model, tokenizer = ours
    params = SamplingParams(temperature=0, max_tokens=64, ignore_eos=True)
    for prompt in PROMPTS:
        ids = tokenizer.encode(prompt)
        made = [step.token_id for step in generate_cached(model, ids, params)]
        with torch.inference_mode():
            expected = reference.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), do_sample=False,
                                          max_new_tokens=64, min_new_tokens=64, eos_token_id=None, pad_token_id=0)
        assert made == expected[0, len(ids):].tolist(), prompt


def test_packed_gives_the_plain_numbers(gguf_path) -> None:
    plain, tokenizer = load(gguf_path, packed=False, dtype="float32", device="cpu")
    tokens = torch.tensor([tokenizer.encode("Packed weights are the same weights in another order.")])
    with torch.inference_mode():
        expected = plain(tokens)
        weight = plain.layers[3].mlp.down.weight.clone()
        packed = pack(plain)
        assert torch.equal(packed.layers[3].mlp.down.unpacked_weight(), weight)
        assert (packed(tokens) - expected).abs().max() < 1e-3


def test_chunked_prefill_equals_one_pass(ours) -> None:
    model, tokenizer = ours
    ids = torch.tensor([tokenizer.encode("One forward pass over a prompt, or several over its pieces: the same logits.")])
    cache = KVCache(model.config, ids.shape[1])
    with torch.inference_mode():
        whole = model(ids)
        pieces = [model(piece, torch.arange(cache.length, cache.length + piece.shape[1]), cache)
                  for piece in ids.split([1, 5, 2, ids.shape[1] - 8], dim=1)]
    assert (torch.cat(pieces, 1) - whole).abs().max() < 1e-3


def test_flat_tokens_equal_a_batch_of_one(ours) -> None:
    model, tokenizer = ours
    ids = torch.tensor(tokenizer.encode("No batch dimension is needed."))
    with torch.inference_mode():
        assert (model(ids) - model(ids[None])[0]).abs().max() < 1e-3
