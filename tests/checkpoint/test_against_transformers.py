"""Our logits and tokens are transformers' logits and tokens, on the same weights."""

import json

import pytest
import torch
import transformers

from aiinfra.engine.generate import generate_cached
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.checkpoint import load
from aiinfra.compress import pack
from aiinfra.model import KVCache, Transformer
from aiinfra.model.config import ModelConfig
from aiinfra.checkpoint.fill import HuggingFaceFolder, fill

PROMPTS = [
    "The capital of France is", "Once upon a time", "def fibonacci(n):", "1, 1, 2, 3, 5, 8,", "Dear Sir or Madam,",
    "Water boils at", "The three primary colours are", "SELECT name FROM users WHERE", "In 1969, the first", "Q: 12 + 30 =\nA:",
    "A queue is a data structure that", "To be, or not to be,", "Die Hauptstadt von Deutschland ist", "import numpy as np\n", "<html>\n<body>\n",
    "My favourite food is", "The mitochondria is the", "Breaking news:", "Step 1: preheat the oven", "\n\n# Installation\n",
]

LLAMA = {"vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3,
         "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 256}
CASES = {
    "llama tied": (transformers.LlamaConfig, {**LLAMA, "tie_word_embeddings": True}),
    "llama untied, one KV head each": (transformers.LlamaConfig, {**LLAMA, "num_key_value_heads": 6}),
    "llama odd heads": (transformers.LlamaConfig, {**LLAMA, "hidden_size": 40, "num_attention_heads": 5,
                                                   "num_key_value_heads": 1}),
    "llama head size of its own": (transformers.LlamaConfig, {**LLAMA, "head_dim": 24}),
    "llama3 rope": (transformers.LlamaConfig, {**LLAMA, "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}),
    "llama linear rope": (transformers.LlamaConfig, {**LLAMA, "rope_parameters": {
        "rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}}),
    "qwen2": (transformers.Qwen2Config, {**LLAMA}),
    "qwen3": (transformers.Qwen3Config, {**LLAMA, "head_dim": 16}),
}


def reference_model(case: str) -> transformers.PreTrainedModel:
    kind, settings = CASES[case]
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(kind(**settings)).eval().float()
    for name, parameter in model.named_parameters():       # biases start at 0 and norms at 1: make them matter
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=0.0 if "bias" in name else 1.0, std=0.5)
        else:
            torch.nn.init.normal_(parameter, std=0.15)
    return model


def our_model(folder, packed: bool = False) -> Transformer:
    source = HuggingFaceFolder(folder)
    model = Transformer(source.config)
    fill(model, source, torch.float32, torch.device("cpu"), packed)
    return model.eval()


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
    assert ModelConfig.from_hf(old) == ModelConfig.from_hf({**new, "rope_parameters": {**rope, "rope_theta": 500000.0}})


def test_bfloat16_folder(tmp_path) -> None:
    theirs = reference_model("llama tied").bfloat16()
    theirs.save_pretrained(tmp_path)
    source = HuggingFaceFolder(tmp_path)
    ours = Transformer(source.config)
    fill(ours, source, torch.bfloat16, torch.device("cpu"))
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
