"""The launch measurement runs anywhere, and says what it could not measure."""

import json

import pytest
import torch

from aiinfra.bench import launches


def test_on_a_cpu_only_the_calls_are_timed():
    seen = launches.measure_launches("cpu", kernels=10, budget_seconds=0.01)
    assert seen.eager_seconds > 0 and seen.kernels == 10 and seen.device
    assert seen.graph_seconds is seen.serial_seconds is seen.overlapped_seconds is None


def test_saves_a_row_with_its_settings(tmp_path, capsys):
    launches.main(["--device", "cpu", "--save", str(tmp_path / "deep" / "launches.json")])
    saved = json.loads((tmp_path / "deep" / "launches.json").read_text())
    assert (
        saved["settings"]["date"] == saved["rows"][0]["date"] and "eager_seconds" in capsys.readouterr().out
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_graph_and_streams_are_timed():
    seen = launches.measure_launches("cuda", kernels=20, budget_seconds=0.05)
    assert min(seen.graph_seconds, seen.serial_seconds, seen.overlapped_seconds) > 0
