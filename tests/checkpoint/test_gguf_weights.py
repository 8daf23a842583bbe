"""A GGUF file's weights are the folder's weights; what its metadata asks for and we cannot compute is
refused."""

import struct

import pytest
import torch

from aiinfra.checkpoint.gguf_weights import config_from_gguf
from aiinfra.errors import LoadError
from tests.checkpoint.small_gguf import gguf_model, write_gguf
from tests.checkpoint.small_models import LLAMA, reference_model

TOKENS = torch.randint(0, LLAMA["vocab_size"], (1, 30), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("case", ["llama tied", "llama untied, one KV head each", "qwen2", "qwen3"])
def test_gguf_gives_the_logits_of_the_folder(case: str, tmp_path) -> None:
    theirs = reference_model(case)
    path = write_gguf(tmp_path / "small.gguf", theirs)
    with torch.inference_mode():
        assert (gguf_model(path)(TOKENS) - theirs(TOKENS).logits).abs().max() < 1e-4


def test_gguf_with_llama_3s_frequencies(tmp_path) -> None:
    """They are a tensor of the file, and are in the config: nothing is left over."""
    factors = torch.linspace(1, 4, 4)
    path = write_gguf(tmp_path / "small.gguf", reference_model("llama tied"), {"rope_freqs.weight": factors})
    assert gguf_model(path).config.rope_scaling.factors == tuple(factors.tolist())


def test_gguf_of_another_architecture(tmp_path, gguf_path) -> None:
    head = gguf_path.read_bytes()[:200_000]
    place = head.index(b"general.architecture") + len(b"general.architecture") + 4
    assert head[place:place + 8] == struct.pack("<Q", 5)
    meta = {"general.architecture": "mamba"}
    with pytest.raises(LoadError, match="'mamba' is not supported. Supported: llama, qwen2, qwen3"):
        config_from_gguf(meta, set(), "x.gguf")
