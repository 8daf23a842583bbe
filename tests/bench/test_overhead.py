"""The server against its own engine, on a small model."""

import pytest

from aiinfra.bench.overhead import bench_overhead
from tests.serve.replicas import small_folder


@pytest.mark.program
def test_two_rows(tmp_path) -> None:
    folder = small_folder(tmp_path / "small")
    first, saturated = bench_overhead(str(folder), requests=8, turns=2, max_running=4)
    assert first.ours > 0 and first.peer > 0 and "ms, the median of 20 pairs" in first.note
    assert saturated.peer_name == "LLM.generate" and 0.05 < saturated.ratio < 2
