"""A busy neighbour is there while decoding is timed, and gone afterwards; the last row says what it left."""

import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aiinfra.bench import neighbour
from aiinfra.bench.decode import Side


def children_seconds() -> float:
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime


def test_it_computes_without_a_pause_and_ends():
    before = children_seconds()
    with pytest.raises(KeyboardInterrupt), neighbour.busy_process() as busy:
        time.sleep(0.5)
        assert busy.poll() is None
        raise KeyboardInterrupt
    assert busy.poll() is not None and children_seconds() - before > 0.05


def test_it_does_not_outlive_who_started_it():
    somebody_else = "1"
    subprocess.run([sys.executable, "-c", neighbour._BUSY, somebody_else], timeout=10, check=True)


def test_both_are_measured_in_turns(model, monkeypatch):
    """The side makes 10 tokens in 1 ms, and in 4 ms beside a neighbour."""
    there, seconds = [], []
    monkeypatch.setattr(neighbour, "busy_process", lambda: Watched(there))

    def decode(prompt):
        took = 0.004 if there else 0.001
        seconds.append(took)
        time.sleep(took)
        return [0] * 10
    monkeypatch.setattr(neighbour, "load", lambda path: (None, None))
    monkeypatch.setattr(neighbour, "resolve", Path)
    monkeypatch.setattr(neighbour, "ours", lambda *_, exact: Side("x", decode, decode, exact))
    rows = list(neighbour.bench_neighbour("small", turns=3))
    assert seconds == [0.001] + [0.001, 0.004] * 3
    assert [row.unit for row in rows] == ["tok/s", "tok/s", ""] and rows[0].note.startswith("OpenMP: ")
    assert rows[2].name == "tok/s with one busy neighbour ÷ alone"
    assert rows[2].ours == rows[1].ours / rows[0].ours < 0.9 and not there


class Watched:
    """A neighbour that only says that it is there."""

    def __init__(self, there: list) -> None:
        self._there = there

    def __enter__(self) -> None:
        self._there.append(1)

    def __exit__(self, *_) -> None:
        self._there.clear()
