"""The report card: every stage has its row, and what was foretold stands beside what was measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from aiinfra.bench import card
from aiinfra.bench.card import CardOptions, CardRow
from aiinfra.bench.command import add_bench


@pytest.mark.program
def test_the_whole_card_as_it_is_typed(tmp_path) -> None:
    saved = tmp_path / "card.json"
    command = [sys.executable, "-m", "aiinfra", "bench", "card", "--steps", "20", "--rate", "10",
               "--seconds", "4", "--save", str(saved)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = {(row["stage"], row["name"]): row for row in json.loads(saved.read_text())["rows"]}
    assert [stage for stage, _ in rows][-1] == "load"
    assert {stage for stage, _ in rows} == {"train", "resume", "export", "serve", "load"}
    assert rows["train", "loss, last step"]["ours"] < rows["train", "loss, first step"]["ours"]
    assert rows["resume", "losses equal to the bit"]["ours"] == 20
    answered = rows["load", "answered"]
    assert answered["ours"] == answered["foretold"] > 3
    assert all(row["foretold"] > 0 for row in rows.values() if row["stage"] == "load")
    assert "SIGKILL after step" in done.stdout and "foretold" in done.stdout


def test_a_row_says_the_error_with_its_sign() -> None:
    row = CardRow("output", 200.0, "tok/s", stage="load", foretold=150.0)
    assert "200 tok/s" in str(row) and "foretold 150 (-25%)" in str(row)
    assert "foretold" not in str(CardRow("ready", 2.0, "s", stage="serve"))


def test_losses_are_of_whole_lines(tmp_path) -> None:
    lines = [json.dumps({"loss": loss}) for loss in (3.0, 2.0)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"lo')
    assert card._losses(tmp_path) == [3.0, 2.0] and card._losses(tmp_path / "none") == []


def test_a_training_that_ends_before_it_is_killed_is_not_called_killed(tmp_path, monkeypatch) -> None:
    def already_over(options: CardOptions, out: Path) -> subprocess.Popen:
        return subprocess.Popen(["true"], stderr=subprocess.PIPE)

    monkeypatch.setattr(card, "_train", already_over)
    with pytest.raises(RuntimeError, match="ended before, with status 0: give it more steps"):
        card._kill(CardOptions(), tmp_path)


@pytest.mark.parametrize("wrong, message", [
    ({"steps": 4}, "steps=4; at least 20"),
    ({"rate": 0}, "rate=0; it must be above 0"),
])
def test_options_that_make_no_sense(wrong, message) -> None:
    with pytest.raises(ValueError, match=message):
        CardOptions(**wrong)


def test_the_command_has_it() -> None:
    import argparse
    parser = argparse.ArgumentParser()
    add_bench(parser)
    args = parser.parse_args(["card", "--steps", "24"])
    assert args.steps == 24 and args.rate == 4.0
