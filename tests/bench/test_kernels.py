"""A fast wrong answer has met no target; without a GPU every row still checks its kernel's result."""

import json
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from tests.kernels.kernel_checks import DEVICE

from aiinfra.__main__ import main
from aiinfra.bench import kernels as bench

TARGETS = {"flash_attention": "G6", "paged_attention": "G7", "rmsnorm": "G8", "quant_matmul": "G9",
           "hstu_attention": "G10"}


def test_on_a_cpu_every_row_is_checked_and_says_what_is_missing():
    rows = list(bench.run("cpu"))
    assert {row.name: row.target for row in rows} == TARGETS and len(rows) == 6
    for row in rows:
        assert row.correct and row.error < 1e-5 and row.met is None
        assert row.ratio is None and row.ours is None and row.peer is None and row.peak_bytes is None
        assert row.note.startswith("Not measured") and row.note.count(". ") == 0     # one sentence


def test_the_measuring_code_runs_at_toy_sizes():
    for row in bench.run("cpu", measure=True):
        assert row.ours > 0 and row.peer > 0 and row.unit == "s" and not row.note
        assert row.ratio == pytest.approx(row.peer / row.ours)


@pytest.mark.parametrize("name", TARGETS)
def test_a_result_one_percent_off_is_not_correct(monkeypatch, name):
    function = {"rmsnorm": "rms_norm"}.get(name, name)
    right = getattr(bench, function)

    def wrong(*args, **kwargs):
        out = right(*args, **kwargs)
        return tuple(1.01 * y for y in out) if isinstance(out, tuple) else 1.01 * out
    monkeypatch.setattr(bench, function, wrong)
    for row in bench.run("cpu", [name], measure=True):
        assert not row.correct and row.met is False


def test_met_needs_both_the_floor_and_a_correct_result():
    row = replace(next(bench.run("cpu", ["rmsnorm"])), ours=1.0, peer=0.95)
    assert row.met and not replace(row, peer=0.5).met
    assert not replace(row, error=0.1).met and not replace(row, error=float("nan")).met


def test_unknown_name_names_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'rmsnorm'"):
        list(bench.run("cpu", ["rms_norm"]))


def test_a_kernel_that_fails_costs_nobody_else_a_row(monkeypatch, tmp_path, capsys):
    """Old code: rows were printed and saved when all had been made; one that raised lost them."""
    def fails(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")
    monkeypatch.setattr(bench, "rms_norm", fails)
    saved = tmp_path / "kernels.json"
    assert main(["bench", "kernels", "--only", "rmsnorm", "quant_matmul", "--save", str(saved)]) == 1
    assert "rmsnorm" in capsys.readouterr().err
    failed, other = json.loads(saved.read_text())["rows"]
    assert failed["note"] == "failed: OutOfMemoryError: CUDA out of memory." and other["error"] < 1e-5


def test_what_was_measured_is_kept_if_somebody_presses_ctrl_c(monkeypatch, tmp_path):
    def stops(*_, **__):
        raise KeyboardInterrupt
    monkeypatch.setattr(bench, "quant_matmul", stops)
    saved = tmp_path / "kernels.json"
    with suppress(KeyboardInterrupt):
        main(["bench", "kernels", "--only", "rmsnorm", "quant_matmul", "--save", str(saved)])
    assert [row["name"] for row in json.loads(saved.read_text())["rows"]] == ["rmsnorm"]


def test_settings_say_where_and_when():
    settings = bench.settings("cpu")
    assert settings["torch"] == torch.__version__ and settings["device"] and settings["date"]


@pytest.mark.skipif(DEVICE.type == "cpu", reason="needs a CUDA GPU")
def test_every_row_is_correct_on_this_gpu():
    rows = list(bench.run())
    assert all(row.correct and row.ratio > 0 for row in rows), rows
    hstu = next(row for row in rows if row.name == "hstu_attention")
    assert hstu.peak_bytes < hstu.peer_peak_bytes / 10
