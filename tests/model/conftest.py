"""The real model twice, from the same file: ours, and transformers'."""

import pytest
import torch
import transformers

from aiinfra.model import load
from aiinfra.model.hub import resolve


@pytest.fixture(scope="session")
def gguf_path():
    return resolve("smollm2-135m")


@pytest.fixture(scope="session")
def ours():
    return load("smollm2-135m", dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def reference(gguf_path):
    return transformers.AutoModelForCausalLM.from_pretrained(
        gguf_path.parent, gguf_file=gguf_path.name, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def reference_tokenizer(gguf_path):
    return transformers.AutoTokenizer.from_pretrained(gguf_path.parent, gguf_file=gguf_path.name)
