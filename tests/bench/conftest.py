"""A small model, as a folder, as ours and as transformers', for whatever is measured."""

import pytest
import torch
import transformers

from aiinfra.bench import latency, steps, throughput
from aiinfra.checkpoint.fill import fill
from aiinfra.checkpoint.huggingface import HuggingFaceFolder
from aiinfra.compress.packed import PlacePacked
from aiinfra.model import Transformer


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A small random Llama, as transformers writes it (no tokenizer: benchmarks send ids)."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=211,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=4096,
    )
    model = transformers.LlamaForCausalLM(config).float()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.25)               # sharp logits: no near-ties
    path = tmp_path_factory.mktemp("llama")
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def model(folder) -> Transformer:
    source = HuggingFaceFolder(folder)
    with torch.device("meta"):
        ours = Transformer(source.config)
    ours.rotary.to("cpu")
    fill(ours, source, PlacePacked(ours))
    return ours.eval()


@pytest.fixture(scope="session")
def peer(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture
def small(model: Transformer, folder, monkeypatch) -> None:
    """Every benchmark that loads a model by its name has this one."""
    for benchmark in (throughput, latency):
        monkeypatch.setattr(benchmark, "resolve", lambda name: folder)
    for benchmark in (throughput, latency, steps):
        monkeypatch.setattr(benchmark, "load", lambda path: (model, None))
