"""The rows about a GPU, on a CPU and with small shapes: the same code, other figures."""

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from aiinfra.__main__ import main
from aiinfra.bench import gpu as bench_gpu
from aiinfra.bench.gpu import SHAPES, busy_spans, random_model
from aiinfra.bench.row import Row
from aiinfra.bench.peers.transformers import transformers_twin
from aiinfra.bench.trace import random_trace
from aiinfra.model import ModelConfig, Transformer
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


@pytest.mark.parametrize("shape, billions", [
    ("SmolLM2-135M", 0.1345), ("Llama-8B", 8.03), ("Llama-1B", 1.236), ("Qwen3-0.6B", 0.596)])
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
    }.items():
        monkeypatch.setattr(bench_gpu, name, value)
    rows = {row.target: row for row in bench_gpu.bench_gpu(device=CPU) if row.target}
    assert list(rows) == ["G3", "G2", "G1", "G13", "G4", "G5"]
    assert all(
        row.ours > 0 and row.ratio == row.ours / row.peer for name, row in rows.items() if name != "G13"
    )
    assert 0 <= rows["G13"].ours < 100 and rows["G4"].ours == rows["G5"].ours
    assert "static batches of" in rows["G4"].peer_name and "generate_batch" in rows["G5"].peer_name


def test_a_part_that_fails_costs_nobody_else_a_row(monkeypatch) -> None:
    """Old code: without a network the first row's model could not be loaded, and no row came."""
    def fails(shape, model, seed):
        yield Row("half", 1.0, "s")
        raise RuntimeError("no kernel image")
    monkeypatch.setattr(bench_gpu, "SHAPES", SMALL)
    monkeypatch.setattr(bench_gpu, "STEPS", 2)
    first, *_ = bench_gpu.PARTS
    monkeypatch.setattr(bench_gpu, "PARTS", [("G9", "Llama-1B", fails), first])
    half, failed, graphs = bench_gpu.bench_gpu(device=CPU)
    assert half.name == "half" and failed.ours is None
    assert failed.note == "failed: RuntimeError: no kernel image"
    assert graphs.target == "G3" and graphs.ours > 0


def test_a_trace_without_kernels_is_a_row_that_says_so(monkeypatch) -> None:
    """Old code: max() of nothing, and all rows after it were lost."""
    monkeypatch.setattr(bench_gpu, "STEPS", 4)
    monkeypatch.setattr(bench_gpu, "CONTEXT", 12)
    monkeypatch.setattr(bench_gpu, "busy_spans", lambda work, device: [])
    rows = bench_gpu.idle_rows("small", random_model(SMALL["Llama-1B"], CPU), 0)
    [row] = bench_gpu.part_rows("G13", lambda: rows)
    assert "the profiler's trace has no kernels" in row.note and row.target == "G13"


def test_a_model_is_made_in_the_dtype_that_it_will_have(monkeypatch) -> None:
    """Old code: in float32 first, 32 GB for 8 billion weights."""
    made = []
    init = Transformer.init_weights
    monkeypatch.setattr(Transformer, "init_weights", lambda self: (made.append(self.dtype), init(self)))
    model = random_model(SMALL["Llama-8B"], CPU, torch.bfloat16)
    assert made == [torch.bfloat16] and torch.get_default_dtype() == torch.float32
    assert model.rotary.frequency.dtype == torch.float32


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
