"""Shared by all tests. Without a GPU, Triton kernels run in its interpreter.

Triton reads TRITON_INTERPRET when a kernel's module is imported, so it is set here, first.
"""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from aiinfra.checkpoint import load                    # noqa: E402  only now: see above
from aiinfra.checkpoint.hub import resolve             # noqa: E402


@pytest.fixture(scope="session")
def gguf_path():
    """The file of the real model."""
    return resolve("smollm2-135m")


@pytest.fixture(scope="session")
def ours():
    """The real model and its tokenizer, read by us."""
    return load("smollm2-135m", dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def reference(gguf_path):
    """The same file, read by transformers."""
    import transformers
    return transformers.AutoModelForCausalLM.from_pretrained(
        gguf_path.parent, gguf_file=gguf_path.name, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def reference_tokenizer(gguf_path):
    """Its tokenizer, read by transformers."""
    import transformers
    return transformers.AutoTokenizer.from_pretrained(gguf_path.parent, gguf_file=gguf_path.name)
