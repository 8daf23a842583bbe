"""The rows about a GPU, on a CPU and with small shapes: the same code, other figures."""

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from aiinfra.__main__ import main
from aiinfra.bench import gpu as bench_gpu
from aiinfra.bench.gpu import SHAPES, busy_spans, random_model
from aiinfra.bench.peers.transformers import transformers_twin
from aiinfra.bench.trace import random_trace
from aiinfra.model import ModelConfig
from aiinfra.perf import gaps

CPU = torch.device("cpu")
SMALL = {
    name: replace(
        config,
        vocab_size=211,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=48,
    )
    for name, config in SHAPES.items()
}


def test_a_pause_is_a_gap_in_the_trace() -> None:
    x = torch.zeros(8)

    def work() -> None:
        x.sin()
        time.sleep(0.05)
        x.cos()

    assert [end - start for start, end in gaps(busy_spans(work, CPU)) if end - start > 0.04] == [
        pytest.approx(0.05, abs=0.03)
    ]


@pytest.mark.parametrize("shape, billions", [("Llama-8B", 8.03), ("Llama-1B", 1.236), ("Qwen3-0.6B", 0.596)])
def test_shapes_have_the_published_number_of_parameters(shape: str, billions: float) -> None:
    model = random_model(SHAPES[shape], torch.device("meta"), torch.bfloat16)
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, rel=1e-3)


@pytest.mark.parametrize("config", SMALL.values(), ids=SMALL)
def test_the_twin_has_our_shape(config: ModelConfig) -> None:
    model, (twin, name) = (
        random_model(config, CPU, torch.bfloat16),
        transformers_twin(config, torch.bfloat16, CPU),
    )
    assert model.dtype == twin.dtype == torch.bfloat16 and model.rotary.frequency.dtype == torch.float32
    assert sorted(p.shape.numel() for p in twin.parameters() if p.ndim == 1) == sorted(
        p.shape.numel() for p in model.parameters() if p.ndim == 1
    )
    assert sum(p.numel() for p in twin.parameters()) == sum(p.numel() for p in model.parameters())
    assert (
        twin.model.rotary_emb.inv_freq == pytest.approx(model.rotary.frequency.tolist())
        and "sdpa attention" in name
    )


def test_all_rows(monkeypatch) -> None:
    for name, value in {
        "SHAPES": SMALL,
        "STEPS": 4,
        "CONTEXT": 12,
        "REQUESTS": 6,
        "LENGTHS": (3, 9),
        "BATCH_SIZES": (2, 4),
        "load": lambda name, device: (random_model(SMALL["Llama-1B"], device), None),
    }.items():
        monkeypatch.setattr(bench_gpu, name, value)
    rows = {row.target: row for row in bench_gpu.bench_gpu("small", device=CPU) if row.target}
    assert list(rows) == ["G3", "G2", "G1", "G13", "G4", "G5"]
    assert all(
        row.ours > 0 and row.ratio == row.ours / row.peer for name, row in rows.items() if name != "G13"
    )
    assert 0 <= rows["G13"].ours < 100 and rows["G4"].ours == rows["G5"].ours
    assert "static batches of" in rows["G4"].peer_name and "generate_batch" in rows["G5"].peer_name


def test_a_batch_that_does_not_fit_is_not_the_best() -> None:
    def generate(ids: torch.Tensor, **options: object) -> torch.Tensor:
        if len(ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        for criterion in options["stopping_criteria"] * options["max_new_tokens"]:
            criterion(ids, None)
        return torch.nn.functional.pad(ids, (0, options["max_new_tokens"]))

    twin, trace = (
        (SimpleNamespace(device=CPU, generate=generate), "peer"),
        random_trace(5, 211, 0, (3, 9), (3, 9)),
    )
    (rate, name), (none, reason) = (bench_gpu._static(trace, twin, size) for size in (2, 4))
    assert (
        rate > 0
        and name == "peer, static batches of 2"
        and none == 0
        and reason == "peer, static batches of 4: out of memory"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(capsys) -> None:
    assert main(["bench", "gpu"]) == 1
    assert "these rows are about a GPU. No GPU:" in capsys.readouterr().err
