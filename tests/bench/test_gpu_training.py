"""Training on a GPU, on a CPU and with a small shape: the same code, other figures."""

from dataclasses import replace

import pytest
import torch

from aiinfra.bench import gpu as bench_gpu
from aiinfra.bench import gpu_training
from aiinfra.perf.training import decoder_flops

CPU = torch.device("cpu")
SMALL = replace(bench_gpu.SHAPES["Llama-1B"], vocab_size=211, hidden_size=32, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2, head_dim=8, intermediate_size=48)


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    monkeypatch.setattr(bench_gpu, "SHAPES", {"Llama-1B": SMALL})
    for name, value in {"LENGTH": 16, "STEPS": 2, "WARMUP": 1, "WAYS": (False,)}.items():
        monkeypatch.setattr(gpu_training, name, value)


def test_the_share_is_flops_over_time_and_rate(monkeypatch) -> None:
    monkeypatch.setattr(gpu_training, "units_rate", lambda device: (3e9, "a rate"))
    [row] = gpu_training.training_rows(CPU)
    assert row.target == "G11" and row.peer_name == "a rate" and row.unit == "TFLOP/s" and row.ours > 0
    monkeypatch.setattr(gpu_training, "_step_seconds", lambda *_: 2.0)
    [row] = gpu_training.training_rows(CPU)
    assert row.ratio == pytest.approx(decoder_flops(SMALL, [16] * 4) / 2.0 / 3e9)
    assert "64 tokens a step of 2000 ms, 32 tok/s" in row.note


def test_half_as_many_texts_where_memory_ends(monkeypatch) -> None:
    tried = []

    def fits(config, device, texts, compiled) -> float:
        tried.append(texts)
        if texts > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 1.0
    monkeypatch.setattr(gpu_training, "_step_seconds", fits)
    assert gpu_training._seconds_that_fit(SMALL, CPU, False) == (1.0, 1) and tried == [4, 2, 1]

    def never(*_) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")
    monkeypatch.setattr(gpu_training, "_step_seconds", never)
    with pytest.raises(torch.OutOfMemoryError):
        gpu_training._seconds_that_fit(SMALL, CPU, False)


@pytest.mark.parametrize("name, rate, source", [
    ("NVIDIA H100 80GB HBM3", 989e12, "the sheet of H100 SXM"), ("NVIDIA H200", 989e12, "the sheet of H200"),
    ("NVIDIA A100-SXM4-80GB", 312e12, "the sheet of A100"), ("NVIDIA RTX 9999", 7.0, "its own best product"),
])
def test_whose_rate_it_is(name: str, rate: float, source: str, monkeypatch) -> None:
    monkeypatch.setattr(gpu_training, "device_name", lambda device: name)
    monkeypatch.setattr(gpu_training, "matmul_flops", lambda *_: 7.0)
    found, said = gpu_training.units_rate(CPU)
    assert found == rate and said.startswith(source)
