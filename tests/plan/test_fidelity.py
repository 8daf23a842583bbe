"""The simulator beside the engine: the same work always, the same times on a quiet machine."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from tests.engine.small_model import random_model

from aiinfra.checkpoint import load
from aiinfra.engine.engine import Engine
from aiinfra.model import ModelConfig
from aiinfra.plan.fidelity import BOUNDS, FidelityRow, fidelity, loads, run_engine, run_simulator
from aiinfra.plan.linear import LinearCost
from aiinfra.plan.measured import measure_cost

TINY = ModelConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                   num_key_value_heads=1, head_dim=16, intermediate_size=48, max_position_embeddings=256)
QUICK = LinearCost(step_seconds=1e-3, token_seconds=1e-5)


def test_both_make_the_same_tokens_of_the_same_requests() -> None:
    model = random_model(TINY)
    saturated, bursty = loads(model, QUICK, requests=6, seed=0)
    assert set(saturated.arrivals) == {0.0}
    assert bursty.arrivals == sorted(bursty.arrivals) and bursty.arrivals[0] > 0
    for load_ in (saturated, bursty):
        ours = run_simulator(Engine(model), load_, QUICK)
        theirs = run_engine(Engine(model, overlap=False), load_)
        assert {name: len(at) for name, at in ours.items()} == {name: len(at) for name, at in theirs.items()}
        for times in (ours, theirs):
            assert all(at == sorted(at) and at[0] > 0 for at in times.values())


def test_a_row_compares_with_the_median_of_the_runs() -> None:
    row = FidelityRow(load="x", figure="tokens a second", engine=(90.0, 100.0, 110.0), simulated=88.0)
    assert row.error == pytest.approx(-0.12) and row.spread == pytest.approx(0.2)
    assert row.bound == BOUNDS["tokens a second"] == 0.1 and not row.within and row.noisy
    assert "beyond its bound   the engine differs more from itself" in str(row) and "-12.0%" in str(row)
    quiet = replace(row, figure="TTFT P50", engine=(100.0, 90.0, 95.0))
    assert quiet.bound == 0.2 and quiet.within and not quiet.noisy and str(quiet).endswith(" 20%")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """What else the machine does then finds a core, and stops no operation at its end."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.alone
@pytest.mark.model
def test_the_simulator_tells_the_truth_on_this_machine(one_thread: None) -> None:
    """Throughput within 10 %, P50 and P99 of both latencies within 20 %, of the median of three runs. Where a
    run of the engine is further from another than that, nothing is measured: then all of it is done again,
    once. The second time counts, however the machine behaves."""
    model, _ = load("smollm2-135m")
    for _ in range(2):
        rows = list(fidelity(model, measure_cost(model), requests=24))
        assert len(rows) == 10
        if not any(row.noisy for row in rows):
            break
    assert all(row.within for row in rows), "\n".join(map(str, rows))
