"""One command for whoever has a GPU: tested from end to end on one that computes nothing."""

import json
import time

import pytest

from aiinfra.bench import gpu_report
from aiinfra.bench.gpu_report import ReportPart, main, run_limited
from aiinfra.bench.row import Row
from aiinfra.bench.on_paper import READ, decode_share
from aiinfra.bench.targets import TARGETS, measured, summary
from aiinfra.device import default_device
from aiinfra.lab import gpus
from aiinfra.lab.gpus import on_gpus

NO_GPU = pytest.mark.skipif(default_device().type == "cuda", reason="there is a GPU")


@NO_GPU
def test_without_a_gpu_it_says_what_it_would_do(capsys) -> None:
    assert main([]) == 0
    said = capsys.readouterr().out
    assert said.startswith("No GPU: ") and all(f"  {name} " in said for name in gpu_report.PARTS)
    assert main(["--only", "tokens", "--tests", "tests/kernels"]) == 0
    assert "tests/kernels (at most" in capsys.readouterr().out


@NO_GPU
@pytest.mark.program
def test_the_whole_command_on_a_fake_gpu(tmp_path, capsys, monkeypatch) -> None:
    """Its figures mean nothing; each part runs to its end, and what it found is in the file."""
    saved = tmp_path / "gpu.json"
    parts = ["environment", "tokens", "decode", "kernels", "training"]
    main(["--fake", "--only", *parts, "--save", str(saved)])
    content = json.loads(saved.read_text())
    by_target = {row["target"]: row for row in content["rows"]}
    said = capsys.readouterr().out
    for target in ("G1", "G2", "G3", "G7", "G8", "G9", "G11"):
        assert by_target[target]["ours"] is not None, by_target[target]
    tokens = [row for row in content["rows"] if row["name"].startswith("tokens, ")]
    assert len(tokens) == 4 and all(row["ours"] == 100 for row in tokens)
    assert by_target["G13"]["note"].startswith("failed: ")           # nothing to profile: said, not fatal
    assert content["settings"]["device"] == "a fake GPU" and "targets measured of 13" in said
    monkeypatch.setattr(gpus, "RECORDED", tmp_path)                  # and a page shows it
    today = content["settings"]["date"]
    shown = repr(on_gpus("G1", "G3"))
    assert f"a fake GPU, {today}" in shown and "Nobody" not in shown and shown.count("–") == 0


@pytest.mark.parametrize("code, note", [
    ("print('{\"name\": 1}', flush=True); import time; time.sleep(60)", "ended at its limit of 3 s"),
    ("print('{\"name\": 1}', flush=True); import os; os._exit(3)", "failed: {\"name\": 1}"),
    ("print('12 passed')", "12 passed"),
    ("raise SystemExit('1 failed')", "failed: 1 failed"),
])
def test_a_part_that_hangs_or_dies_ends_no_other(code: str, note: str, monkeypatch, tmp_path) -> None:
    (tmp_path / "part.py").write_text(code)
    monkeypatch.setattr(gpu_report, "_ROOT", tmp_path)
    begun = time.monotonic()
    *rows, last = run_limited("a part", ["part"], 3.0)
    assert time.monotonic() - begun < 20 and last["name"] == "a part" and note in last["note"]
    assert rows == ([{"name": 1}] if "name" in code else [])


def test_a_part_that_raises_gives_the_rows_that_it_had(monkeypatch) -> None:
    def rows():
        yield Row("first", 1.0, "s")
        raise ValueError("no kernel image\nsecond line")
    monkeypatch.setitem(gpu_report.PARTS, "broken", ReportPart("", 1.0, rows))
    lines = []
    gpu_report.run_part("broken", lines.append)
    first, last = map(json.loads, lines)
    assert first["name"] == "first" and last["note"] == "failed: ValueError: no kernel image"


def test_the_file_is_whole_after_every_row(tmp_path, monkeypatch) -> None:
    saved = tmp_path / "gpu.json"
    counts = []

    def rows():
        for number in range(3):
            yield gpu_report.as_json(Row(f"row {number}", 1.0, "s"))
            counts.append(len(json.loads(saved.read_text())["rows"]))
    assert gpu_report.report(rows(), "H100", saved) == 0 and counts == [1, 2, 3]


def test_verdicts_and_expectations() -> None:
    rows = [{"target": "G6", "ratio": 1.3, "ours": 1}, {"target": "G6", "ratio": 1.05, "ours": 1},
            {"target": "G13", "ratio": None, "ours": 2.0}, {"target": "", "ratio": 9.0, "ours": 1}]
    found = measured(rows)
    assert found["G6"] == 1.05 and found["G13"] == 0.02 and found["G1"] is None
    lines = {line[:4].strip(): line for line in summary(found, "NVIDIA H100 80GB HBM3").splitlines()}
    assert "floor" in lines["G6"] and "1 to 1.4" in lines["G6"] and "floor" in lines["G13"]
    assert TARGETS["G13"].met(0.04) == "missed" and TARGETS["G13"].met(0.01) == "goal"
    assert TARGETS["G1"].met(0.95) == "goal" and TARGETS["G1"].met(0.7) == "missed"
    assert TARGETS["G1"].expected_on("a fake GPU") == "–"


def test_small_kernels_cost_a_fast_memory_more() -> None:
    """The paper model: the same launches beside less reading."""
    shares = [decode_share(15.0e9, 32, READ[kind]) for kind in ("H100", "H200")]
    assert 0.84 < shares[0] < 0.88 and 0.79 < shares[1] < shares[0]
    assert decode_share(2.47e9, 16, READ["H200"]) < 0.72
    assert all(target.floor <= target.goal or target.less for target in TARGETS.values())
