"""Predictions follow from the definitions, and measurements from real work."""

import json
import time
from dataclasses import dataclass

import pytest
import torch

from aiinfra.perf import SHEETS, Cost, Hardware, attainable, percentile, predict, ridge, time_call, token_seconds
from aiinfra.perf.cost import linear
from aiinfra.perf.hardware import dispatch_seconds, matmul_flops, measure, read_bandwidth
from aiinfra.files import save_json

BOX = Hardware("box", 1e9, bandwidth=10.0, float32=100.0, bfloat16=200.0)


def test_costs_add_and_scale() -> None:
    cost = 3 * (Cost(2, 4) + Cost(1, 0))
    assert (cost.flops, cost.bytes, cost.intensity) == (9, 12, 0.75)
    assert Cost(5, 0).intensity == 0


def test_a_linear_layer_by_counting() -> None:
    x, w = torch.randn(3, 5), torch.randn(7, 5)
    y = torch.nn.functional.linear(x, w)
    assert linear(3, 5, 7) == Cost(2 * 3 * 5 * 7, x.nbytes + w.nbytes + y.nbytes)
    assert linear(3, 5, 7, 4, bytes_per_weight=0.5).bytes == x.nbytes + y.nbytes + 5 * 7 / 2


def test_the_roofline_bends_at_the_ridge() -> None:
    assert ridge(BOX) == 10 and ridge(BOX, torch.bfloat16) == 20
    for intensity in (1, 9.9, 10, 11, 1000):
        prediction = predict(Cost(intensity * 50, 50), BOX)
        assert prediction.bound == ("memory" if intensity <= 10 else "compute")
        assert intensity * 50 / prediction.seconds == pytest.approx(attainable(intensity, BOX))
    with pytest.raises(ValueError, match="H100 SXM: its sheet has no figure for torch.int8"):
        SHEETS["H100 SXM"].peak(torch.int8)


def test_published_sheets() -> None:
    """The figures that the course quotes."""
    assert SHEETS["H20"].memory_bytes * 8 == 768e9
    assert token_seconds(37e9, 8 * SHEETS["H20"].bandwidth) == pytest.approx(1.16e-3, rel=0.01)
    assert all(sheet.source for sheet in SHEETS.values())


def test_percentiles_are_numpys() -> None:
    import numpy as np
    values = [3.0, 1.0, 4.0, 1.5, 9.0]
    for q in (0, 10, 50, 75, 99, 100):
        assert percentile(values, q) == pytest.approx(np.percentile(values, q))
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_huge_pages_keep_the_content() -> None:
    import sys

    from aiinfra.environment import use_huge_pages
    x = torch.arange(4 << 20, dtype=torch.float32)
    moved = use_huge_pages(x.data_ptr(), x.nbytes)
    assert moved in (True, False) and torch.equal(x, torch.arange(4 << 20, dtype=torch.float32))
    assert not use_huge_pages(x.data_ptr(), 1000), "less than a page: nothing to move"
    assert sys.platform == "linux" or not moved


def test_timing_measures_time() -> None:
    timing = time_call(lambda: time.sleep(0.01), budget_seconds=0, at_least=3, warmup=0)
    assert len(timing.seconds) == 3 and timing.median_seconds >= 0.01 and timing.spread >= 0
    assert len(time_call(lambda: None, budget_seconds=10, at_most=7).seconds) == 7


def test_measured_limits_are_of_this_world() -> None:
    """Reading takes longer for more bytes, a product for more arithmetic; both within a laptop's and a server's range."""
    assert 1e9 < read_bandwidth("cpu", 64 << 20, 0.1) < 2e12
    assert 1e9 < matmul_flops("cpu", torch.float32, 512, 0.1) < 2e13
    assert 1e-8 < dispatch_seconds("cpu", 200) < 1e-3
    assert measure("cpu", 0.05).bfloat16 is None


def test_saving_is_whole_or_not_at_all(tmp_path) -> None:
    @dataclass
    class Row:
        value: object
    path = tmp_path / "folder" / "rows.json"
    save_json([Row(1.5)], {"device": "x"}, path)
    before = path.read_text()
    assert json.loads(before) == {"settings": {"device": "x"}, "rows": [{"value": 1.5}]}
    with pytest.raises(TypeError):
        save_json([Row(object())], {}, path)
    assert path.read_text() == before and list(path.parent.iterdir()) == [path]


def test_a_gpu_that_is_not_the_current_one_is_refused(monkeypatch) -> None:
    """Triton launches on the current GPU, whatever its tensors lie on."""
    from aiinfra.device import as_device
    for name, value in (("is_available", True), ("device_count", 2), ("current_device", 0)):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    assert as_device("cuda") == torch.device("cuda") and as_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(ValueError, match=r"device='cuda:1' is not the current GPU.*set_device\(1\)"):
        as_device("cuda:1")
    with pytest.raises(ValueError, match="this machine has 2 GPU"):
        as_device("cuda:2")
