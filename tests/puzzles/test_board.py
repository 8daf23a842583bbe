"""The board: what is solved stays solved, and what a reader had before the records moved still counts."""

import json

import pytest

from puzzles import board
from puzzles.judge.verdict import Verdict


@pytest.fixture(autouse=True)
def data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("AIINFRA_DATA", str(tmp_path))
    return tmp_path


def test_a_try_and_a_pass_are_kept_and_a_pass_is_not_taken_back():
    assert board.read("rope") == board.Entry("rope")
    assert board.record(Verdict("rope", "failed")) == ""
    assert board.read("rope").status == "wrong" and board.progress().solved == 0
    board.record(Verdict("rope", "passed"))
    board.record(Verdict("rope", "failed"))
    entry = board.read("rope")
    assert entry.status == "passed" and entry.tries == 3 and entry.passed_on and board.progress().solved == 1


def test_the_old_files_count_until_there_is_a_new_one(data_folder):
    (data_folder / "puzzles").mkdir()
    (data_folder / "puzzles" / "rope.json").write_text(json.dumps({"solved": "2026-01-31", "tries": 3}))
    (data_folder / "puzzles" / "matmul.json").write_text(json.dumps({"solved": None, "tries": 2}))
    assert board.read("rope") == board.Entry("rope", status="passed", tries=3, passed_on="2026-01-31")
    assert board.read("matmul") == board.Entry("matmul", status="wrong", tries=2)
    board.record(Verdict("rope", "failed"))
    assert board.read("rope") == board.Entry("rope", status="passed", tries=4, passed_on="2026-01-31")
    assert "solved 2026-01-31, 4 attempts" in repr(board.progress())


def test_what_is_no_puzzle_leaves_no_record(data_folder):
    assert board.record(Verdict("mirror", "passed")) == "" and not list(data_folder.iterdir())
