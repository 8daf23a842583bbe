"""A run from a text file to a model: stopped anywhere, by anything, it comes to the same end."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from aiinfra.checkpoint import load
from aiinfra.environment import child_environment
from aiinfra.train import team as team_module
from aiinfra.train.options import TrainOptions
from aiinfra.train.run import TrainingRun, read_lines
from aiinfra.train.state import StateError, read_place, save_state
from aiinfra.train.step import Diverged
from tests.train.stories import stories

pytestmark = pytest.mark.program

SMALL = TrainOptions(steps=12, layers=1, width=32, feed_forward=48, heads=2, kv_heads=1, vocabulary=300,
                     length=32, rows=2, accumulate=3, save_every=3, device="cpu")
KILLS = 10                   # 30 were tried as well
# Each line is a command: options as JSON. One process imports PyTorch, and has a child run each.
RUNNER = """
import json, os, sys, torch
from aiinfra.train.run import TrainingRun
from aiinfra.train.options import TrainOptions
torch.set_num_threads(1)
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if not child:
        data, out, options = json.loads(line)
        run = TrainingRun(data, out, TrainOptions(**options), resume=True)
        for record in run:
            pass
        run.export()
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "stories.txt"
    path.write_text("\n\n".join(stories(120)))
    return path


def finish(data: Path, out: Path, options: TrainOptions = SMALL, resume: bool = False) -> TrainingRun:
    run = TrainingRun(data, out, options, resume)
    for _ in run:
        pass
    run.export()
    return run


def losses(out: Path) -> list[tuple]:
    return [(line["step"], line["loss"], line["gradient_norm"], line["tokens_seen"])
            for line in read_lines(out / "metrics.jsonl")]


def evaluations(out: Path) -> list[dict]:
    return read_lines(out / "evaluations.jsonl")


def same_end(one: Path, other: Path) -> None:
    """Losses, evaluations and final weights are the same to the last bit."""
    assert losses(one) == losses(other) and evaluations(one) == evaluations(other)
    weights, again = (load_file(out / "export" / "model.safetensors") for out in (one, other))
    assert weights.keys() == again.keys() and all(torch.equal(weights[name], again[name]) for name in weights)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    """The folder of a run that nothing stopped."""
    out = tmp_path_factory.mktemp("whole")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    finish(data, out)
    torch.set_num_threads(threads)
    return out


def test_a_line_a_step_and_the_figures_of_an_evaluation(whole: Path) -> None:
    lines = read_lines(whole / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [line["tokens_seen"] for line in lines] == [192 * step for step in range(1, 13)]
    assert lines[0].keys() >= {"loss", "bits_per_byte", "learning_rate", "seconds", "flops", "peak_bytes"}
    assert [line["step"] for line in evaluations(whole)] == [3, 6, 9, 12]
    assert lines[-1]["loss"] < lines[0]["loss"]


@pytest.mark.parametrize("left_at", [1, 3, 7])
def test_left_and_gone_on_with(left_at: int, data: Path, whole: Path, tmp_path: Path) -> None:
    """After a step with a checkpoint, and after one without, whose work is done again."""
    for record in TrainingRun(data, tmp_path, SMALL):
        if record.step == left_at:
            break
    finish(data, tmp_path, resume=True)
    same_end(whole, tmp_path)


def kill_at(moments: list[float], data: Path, out: Path) -> int:
    """Run in a child process, killed after each of `moments` (seconds), then to its end; how many kills
    struck."""
    options = {name: value for name, value in vars(SMALL).items()}
    environment = child_environment(OMP_NUM_THREADS="1")
    struck = 0
    with subprocess.Popen([sys.executable, "-c", RUNNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          env=environment, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        for moment in [*moments, None]:
            print(json.dumps([str(data), str(out), options]), file=process.stdin, flush=True)
            child = int(process.stdout.readline())
            if moment is not None:
                time.sleep(moment)
                os.kill(child, signal.SIGKILL)
            status = int(process.stdout.readline())
            struck += status == -signal.SIGKILL
            assert status in (0, -signal.SIGKILL)
        assert status == 0
        process.stdin.close()
    return struck


def test_killed_at_random_moments(data: Path, whole: Path, tmp_path: Path) -> None:
    """Most of them strike in the midst of a run; more of them were tried than are tried here."""
    pick = random.Random(1)
    moments = [pick.uniform(0.02, 0.5) for _ in range(KILLS)]
    assert kill_at(moments, data, tmp_path) >= len(moments) // 2
    same_end(whole, tmp_path)


@pytest.mark.parametrize(
    "moment", ["a save", "the move of a save", "an evaluation", "an accumulation", "a line"])
def test_killed_in_the_midst_of(moment: str, data: Path, whole: Path, tmp_path: Path) -> None:
    """A child kills itself just there, at its second occasion; then the run is gone on with."""
    child = os.fork()
    if not child:
        _die_in(moment)
        finish(data, tmp_path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    with warnings.catch_warnings():
        warnings.simplefilter("error")                                # no half checkpoint is ever looked at
        finish(data, tmp_path, resume=True)
    same_end(whole, tmp_path)


def _die_in(moment: str) -> None:
    """Have this process killed at the second call of what is named."""
    from aiinfra.train import loop, run, state
    places = {"a save": (state, "_fingerprint", 4), "the move of a save": (Path, "rename", 2),
              "an evaluation": (run, "evaluate", 2), "an accumulation": (loop.OneByOne, "add_gradients", 14),
              "a line": (run.json, "dumps", 5)}
    owner, name, occasion = places[moment]
    original, calls = getattr(owner, name), []
    def dying(*args, **kwargs):
        calls.append(1)
        if len(calls) == occasion:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)
    setattr(owner, name, dying)


def test_a_full_disk_stops_nothing(data: Path, whole: Path, tmp_path: Path, monkeypatch) -> None:
    save_state, calls = team_module.save_state, []
    def sometimes_full(*args) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        save_state(*args)
    monkeypatch.setattr(team_module, "save_state", sometimes_full)
    message = "checkpoint of step 6 could not be written .*No space left.*is of step 3"
    with pytest.warns(UserWarning, match=message):
        finish(data, tmp_path)
    assert losses(tmp_path) == losses(whole)
    assert [line["step"] for line in evaluations(tmp_path)] == [3, 9, 12]


def test_a_run_that_diverges_keeps_its_checkpoints(data: Path, tmp_path: Path) -> None:
    wild = replace(SMALL, learning_rate=30.0, save_every=1)
    message = r"step \d: loss .*, gradient norm .*; the loss may be at most 11.41"
    with pytest.raises(Diverged, match=message) as found:
        finish(data, tmp_path, wild)
    run = TrainingRun(data, tmp_path, wild, resume=True)
    assert run.step == found.value.step - 1 and run.checkpoints.best_step() is not None
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, found.value.step))


def test_a_changed_configuration(data: Path, whole: Path, tmp_path: Path) -> None:
    finish(data, tmp_path, replace(SMALL, steps=3))
    with pytest.raises(StateError, match="seed was 0 and is 1; width was 32 and is 64. .*only in: .*steps"):
        TrainingRun(data, tmp_path, replace(SMALL, seed=1, width=64), resume=True)
    other = tmp_path / "other.txt"
    other.write_text(data.read_text() + "\n\nOne more.")
    with pytest.raises(StateError, match="data was "):
        TrainingRun(other, tmp_path, SMALL, resume=True)
    longer = TrainingRun(data, tmp_path, replace(SMALL, steps=5, keep=1), resume=True)
    assert set(longer.changes) == {"steps was 3 and is 5", "keep was 2 and is 1"}
    assert "going on after step 3" in longer.introduction()
    with pytest.raises(ValueError, match="holds a run already. Pass --resume"):
        TrainingRun(data, tmp_path, SMALL)


def test_one_document_is_trained_on_without_an_evaluation(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text(" ".join(stories(40)))
    run = finish(tmp_path / "one.txt", tmp_path / "out", replace(SMALL, steps=3))
    assert evaluations(tmp_path / "out") == [] and run.checkpoints.best_step() is None
    assert "too few documents" in " ".join(run.introduction())


def test_a_row_longer_than_the_text(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("Too short.\n\nBy far.")
    with pytest.raises(ValueError, match="a row is 32 tokens and the whole text is"):
        TrainingRun(tmp_path / "short.txt", tmp_path / "out", SMALL)


def test_a_run_from_before_there_were_experts_goes_on(data: Path, tmp_path: Path) -> None:
    run = TrainingRun(data, tmp_path, replace(SMALL, steps=2, save_every=2))
    list(run)
    folder = tmp_path / "checkpoints" / "step-00000002"
    place = read_place(folder)
    older = {key: value for key, value in place.configuration.items()
             if key not in ("experts", "experts_per_token", "balance_loss")}
    save_state(folder, run.model, run.optimizer, replace(place, configuration=older))
    longer = TrainingRun(data, tmp_path, replace(SMALL, steps=3), resume=True)
    assert [record.step for record in longer] == [3]
    with pytest.raises(StateError, match="experts was 0 and is 4"):
        TrainingRun(data, tmp_path, replace(SMALL, steps=3, experts=4), resume=True)


def test_experts_are_trained_and_exported(data: Path, tmp_path: Path) -> None:
    run = TrainingRun(data, tmp_path, replace(SMALL, steps=3, experts=4))
    losses = [record.loss for record in run]
    assert losses[-1] < losses[0]
    model = load(run.export())[0]
    assert model.config.moe == run.model.config.moe
    tokens = torch.arange(20)
    torch.testing.assert_close(model(tokens), run.model(tokens))
