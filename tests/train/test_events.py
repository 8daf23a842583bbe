"""TensorBoard is optional: told where it is missing, and given the figures that are known."""

from itertools import islice
from pathlib import Path

import pytest

from aiinfra.train import events
from aiinfra.train.data import PackedStream
from aiinfra.train.events import TensorBoard
from aiinfra.train.loop import loop
from aiinfra.train.optimizer import Schedule, adamw
from tests.train.stories import corpus, tiny_model


def records(steps: int = 2) -> list:
    model = tiny_model()
    made = loop(model, PackedStream(corpus(), 32, 2, seed=0), adamw(model), Schedule(peak=1e-3, steps=9))
    return list(islice(made, steps))


def test_told_where_it_is_missing(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(events, "SummaryWriter", None)
    with pytest.raises(RuntimeError, match="TensorBoard is not installed: pip install tensorboard"):
        TensorBoard(tmp_path)


def test_each_figure_that_is_known_is_a_point(monkeypatch, tmp_path: Path) -> None:
    points = []

    class Writer:
        def __init__(self, folder: Path) -> None:
            assert folder == tmp_path

        def add_scalar(self, name: str, value: float, step: int) -> None:
            points.append((name, value, step))

        def flush(self) -> None:
            points.append("on disk")
    monkeypatch.setattr(events, "SummaryWriter", Writer)
    made = records()
    board = TensorBoard(tmp_path)
    for record in made:
        board.write(record)
    assert ("loss", made[1].loss, 2) in points and points.count("on disk") == 2
    assert not [point for point in points if point[0] == "mfu"], "no FLOPs were given"


def test_its_own_reader_reads_it(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    made = records()
    board = TensorBoard(tmp_path)
    for record in made:
        board.write(record)
    read = accumulator.EventAccumulator(str(tmp_path))
    read.Reload()
    assert [point.step for point in read.Scalars("loss")] == [1, 2]
    assert [point.value for point in read.Scalars("loss")] == pytest.approx([one.loss for one in made])
