"""Paper beside measurements, and in a sentence that there are none."""

import json
from pathlib import Path

import pytest

from aiinfra.lab import gpus
from aiinfra.lab.gpus import on_gpus


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(gpus, "RECORDED", tmp_path)
    return tmp_path


def row(target: str, ratio: float | None, ours: float = 1.0) -> dict:
    return {"name": "a row", "target": target, "ratio": ratio, "ours": ours, "note": ""}


def write(path: Path, device: str, *rows: dict, command: str = "gpu_report") -> None:
    settings = {"command": command, "device": device, "date": "2030-01-02"}
    path.write_text(json.dumps({"settings": settings, "rows": rows}))


def test_without_a_measurement_there_is_paper_and_a_command(folder: Path) -> None:
    write(folder / "kernels.json", "a GPU", row("G1", 0.5), command="bench kernels")
    shown = repr(on_gpus("G1", "G3"))
    head, first, second, remark = shown.splitlines()
    assert "paper: H100" in head and "0.8 " in first and "135M" in second
    assert remark.startswith("Nobody has measured these on a GPU yet") and "`make gpu`" in remark
    assert remark.count(".") == 1 and on_gpus("G1")._repr_markdown_().endswith(remark)


def test_each_gpu_is_a_column(folder: Path) -> None:
    write(folder / "h100.json", "NVIDIA H100", row("G6", 1.31), row("G6", 1.12), row("G13", None, ours=0.4))
    write(folder / "a100.json", "NVIDIA A100", row("G6", 0.9))
    table = on_gpus("G6", "G13")
    head, _, flash, idle = table._repr_markdown_().splitlines()
    assert head.endswith("| NVIDIA A100, 2030-01-02 | NVIDIA H100, 2030-01-02 |")
    assert flash.endswith("| 0.9 | 1.12 |") and idle.endswith("| – | 0.004 |")
    assert head.count("|") == flash.count("|") and "Nobody" not in repr(table)


def test_all_targets_or_those_that_there_are() -> None:
    assert len(on_gpus().keys) == 13
    with pytest.raises(ValueError, match="there is no target 'G14'.*Known: G1, G2"):
        on_gpus("G14")
