"""Saved, loaded and gone on with: the same losses and the same weights, to the last bit."""

import errno
import json
import random
import warnings
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from aiinfra.files import replace_folder
from aiinfra.train import state
from aiinfra.train.checkpoints import Checkpoints
from aiinfra.train.data import PackedStream
from aiinfra.train.loop import loop
from aiinfra.train.optimizer import Schedule, adamw
from aiinfra.train.state import Waypoint, StateError, check_configuration, load_state, read_place, save_state
from tests.train.stories import corpus, tiny_model

TEXT = corpus()


class Run:
    """A model in training that can be saved at any step; with dropout, whose random numbers are part of its
    state."""

    def __init__(self, seed: int = 0, steps: int = 12) -> None:
        self.model = tiny_model(seed)
        for layer in self.model.layers:
            layer.mlp.register_forward_hook(lambda module, args, y: nn.functional.dropout(y, 0.2))
        self.optimizer = adamw(self.model)
        self.stream = PackedStream(TEXT, 64, 4, seed=0)
        self.schedule = Schedule(peak=1e-2, steps=steps, warmup=3)
        self.place = Waypoint(step=0, tokens_seen=0, position=0, configuration={"seed": seed})

    def train(self, steps: int) -> list[tuple[float, float]]:
        records = loop(self.model, self.stream, self.optimizer, self.schedule, accumulate=2,
                       steps_done=self.place.step, tokens_seen=self.place.tokens_seen)
        done = list(islice(records, steps))
        self.place = Waypoint(step=done[-1].step, tokens_seen=done[-1].tokens_seen,
                              position=self.stream.position, configuration=self.place.configuration)
        return [(record.loss, record.gradient_norm) for record in done]

    def save(self, folder: Path) -> None:
        save_state(folder, self.model, self.optimizer, self.place)

    def load(self, folder: Path) -> None:
        self.take_up(load_state(folder, self.model, self.optimizer))

    def take_up(self, place: Waypoint) -> None:
        self.place, self.stream.position = place, place.position

    def weights(self) -> list[torch.Tensor]:
        return [value.clone() for value in self.model.state_dict().values()]


@pytest.mark.parametrize("left_at", [1, 5, 11])
def test_going_on_is_never_having_stopped(left_at: int, tmp_path: Path) -> None:
    """Seven steps are more than an epoch here: the place in a later epoch counts too."""
    whole = Run()
    losses = whole.train(12)
    assert whole.stream.epoch >= 2
    first = Run()
    first.train(left_at)
    first.save(tmp_path / "state")
    torch.rand(3)                                       # whatever else drew random numbers
    np.random.rand(3)
    random.random()
    second = Run(seed=5)
    second.load(tmp_path / "state")
    assert second.train(12 - left_at) == losses[left_at:]
    assert all(torch.equal(a, b) for a, b in zip(whole.weights(), second.weights()))
    assert second.place == whole.place


def test_every_random_generator_goes_on(tmp_path: Path) -> None:
    run = Run()
    run.train(1)
    np.random.randn()                                                   # NumPy keeps the second of a pair
    run.save(tmp_path / "state")
    def draw() -> tuple:
        return torch.rand(3).tolist(), np.random.randn(3).tolist(), random.random(), random.gauss(0, 1)
    expected = draw()
    run.load(tmp_path / "state")
    assert draw() == expected


def test_a_tied_table_is_saved_once_and_stays_tied(tmp_path: Path) -> None:
    run = Run()
    run.train(1)
    run.save(tmp_path / "state")
    size = (tmp_path / "state" / "model.safetensors").stat().st_size
    weights = sum(parameter.nbytes for parameter in run.model.parameters())
    assert weights < size < weights + 4096
    run.load(tmp_path / "state")
    assert run.model.lm_head.weight is run.model.embed.weight


def damage(path: Path, how: str) -> None:
    raw = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(raw[:len(raw) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        raw[-200] ^= 1                                                  # one bit
        path.write_bytes(raw)


@pytest.mark.parametrize(
    "file", ["model.safetensors", "optimizer.safetensors", "random.safetensors", "state.json"])
@pytest.mark.parametrize("how", ["missing", "cut", "empty", "a bit"])
def test_a_damaged_newest_is_passed_over_and_named(file: str, how: str, tmp_path: Path) -> None:
    run, checkpoints = Run(), Checkpoints(tmp_path)
    run.train(1)
    checkpoints.save(run.model, run.optimizer, run.place)
    losses = run.train(2)
    checkpoints.save(run.model, run.optimizer, run.place)
    damage(checkpoints.path(3) / file, how)
    with pytest.warns(UserWarning, match=f"step-00000003/{file} .*going on from step-00000001"):
        run.take_up(checkpoints.load_newest(run.model, run.optimizer))
    assert run.train(2) == losses
    checkpoints.save(run.model, run.optimizer, run.place)               # takes the damaged one's place
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoints.load_newest(run.model, run.optimizer).step == 3


def test_a_damaged_checkpoint_changes_nothing(tmp_path: Path) -> None:
    run = Run()
    run.train(1)
    run.save(tmp_path / "state")
    run.train(1)
    before = run.weights()
    damage(tmp_path / "state" / "random.safetensors", "a bit")
    with pytest.raises(StateError, match="its hash differs"):
        run.load(tmp_path / "state")
    assert all(torch.equal(a, b) for a, b in zip(before, run.weights()))


def test_all_damaged_or_none(tmp_path: Path) -> None:
    run, checkpoints = Run(), Checkpoints(tmp_path)
    assert checkpoints.load_newest(run.model, run.optimizer) is None
    run.train(1)
    checkpoints.save(run.model, run.optimizer, run.place)
    damage(checkpoints.path(1) / "state.json", "cut")
    message = "no checkpoint in .* is whole: step-00000001/state.json cannot be read"
    with pytest.raises(StateError, match=message):
        checkpoints.load_newest(run.model, run.optimizer)


def test_a_checkpoint_of_another_model(tmp_path: Path) -> None:
    run = Run()
    run.train(1)
    run.save(tmp_path / "state")
    for changes, message in (({"num_hidden_layers": 1}, "only the checkpoint has a weight layers.1"),
                             ({"tie_word_embeddings": False}, "only the model has a weight lm_head.weight"),
                             ({"intermediate_size": 40}, r"gate_up.weight is \[96, 32\] .* and \[80, 32\]")):
        other = tiny_model(**changes)
        with pytest.raises(StateError, match=message):
            load_state(tmp_path / "state", other, adamw(other))


def test_the_last_ones_and_the_best_stay(tmp_path: Path) -> None:
    run, checkpoints = Run(), Checkpoints(tmp_path, keep=2)
    for loss in (3.0, 2.0, 2.5, 2.6, 2.7):
        run.train(1)
        checkpoints.save(run.model, run.optimizer, run.place)
        assert checkpoints.note_evaluation(run.place.step, loss) == (loss in (3.0, 2.0))
    assert checkpoints.steps() == [2, 4, 5] and (checkpoints.best_step(), checkpoints.best_loss()) == (2, 2.0)
    assert read_place(checkpoints.path(2)).step == 2
    with pytest.raises(ValueError, match="keep=0"):
        Checkpoints(tmp_path, keep=0)


@pytest.mark.parametrize("file", [0, 1, 2])
def test_a_full_disk_leaves_what_was_there(file: int, tmp_path: Path, monkeypatch) -> None:
    run, checkpoints = Run(), Checkpoints(tmp_path, keep=1)
    run.train(1)
    checkpoints.save(run.model, run.optimizer, run.place)
    run.train(1)
    written = []
    save_file = state.save_file
    def full(tensors: dict, path: Path) -> None:
        if len(written) == file:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        save_file(tensors, path)
    monkeypatch.setattr(state, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(run.model, run.optimizer, run.place)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert checkpoints.load_newest(run.model, run.optimizer).step == 1


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "made"
    replace_folder(path, lambda folder: (folder / "a").write_text("1"))
    def breaks(folder: Path) -> None:
        (folder / "a").write_text("2")
        raise OSError("full")
    with pytest.raises(OSError):
        replace_folder(path, breaks)
    assert [one.name for one in tmp_path.iterdir()] == ["made"] and (path / "a").read_text() == "1"
    (tmp_path / ".made.left.part").mkdir()                              # by a process that was killed
    replace_folder(path, lambda folder: (folder / "b").write_text("3"))
    assert [one.name for one in tmp_path.iterdir()] == ["made"]
    assert [one.name for one in path.iterdir()] == ["b"]


def test_a_changed_configuration_is_named() -> None:
    saved, may = {"seed": 1, "layers": 4, "steps": 100}, frozenset({"steps", "keep"})
    assert check_configuration(saved, {**saved, "steps": 200}, may) == ["steps was 100 and is 200"]
    assert check_configuration(saved, saved, may) == []
    with pytest.raises(StateError, match="seed was 1 and is 2; layers was 4 and is 5. .*in: keep, steps"):
        check_configuration(saved, {"seed": 2, "layers": 5, "steps": 1}, may)
    with pytest.raises(StateError, match="width was None and is 7"):
        check_configuration(saved, {**saved, "width": 7}, may)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    run = Run()
    run.train(1)
    run.save(tmp_path / "state")
    kinds = {path.suffix for path in (tmp_path / "state").iterdir()}
    assert kinds == {".safetensors", ".json"}
    json.loads(json.loads((tmp_path / "state" / "state.json").read_text())["body"])
