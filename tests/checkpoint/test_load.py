"""The real model's logits and tokens are transformers'; what cannot be loaded says why."""

import pytest
import torch

from aiinfra.checkpoint import load
from aiinfra.engine.generate import generate_cached
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.errors import LoadError

PROMPTS = [
    "The capital of France is", "Once upon a time", "def fibonacci(n):", "1, 1, 2, 3, 5, 8,",
    "Dear Sir or Madam,",
    "Water boils at", "The three primary colours are", "SELECT name FROM users WHERE", "In 1969, the first",
    "Q: 12 + 30 =\nA:",
    "A queue is a data structure that", "To be, or not to be,", "Die Hauptstadt von Deutschland ist",
    "import numpy as np\n", "<html>\n<body>\n",
    "My favourite food is", "The mitochondria is the", "Breaking news:", "Step 1: preheat the oven",
    "\n\n# Installation\n",
]


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
            expected = reference.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)),
                                          do_sample=False,
                                          max_new_tokens=64, min_new_tokens=64, eos_token_id=None,
                                          pad_token_id=0)
        assert made == expected[0, len(ids):].tolist(), prompt


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


@pytest.mark.parametrize("device", ["gpu", "meta", "cuda:99"])
def test_device_that_is_not_there(device: str, gguf_path) -> None:
    with pytest.raises(ValueError, match="is not known. Use 'cpu'|No GPU|this machine has"):
        load(gguf_path, device=device)
