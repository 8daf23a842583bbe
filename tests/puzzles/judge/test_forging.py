"""Nobody passes by reaching for the judge, and whoever tries leaves nothing behind."""

import os
import tempfile
from pathlib import Path

import pytest
from tests.puzzles.forgeries import FORGERIES

from puzzles.catalogue import PUZZLES
from puzzles.checking import Workers, judge_text
from puzzles.judge.job import Job
from puzzles.judge.process import Worker
from puzzles.source import from_text
from puzzles.wrong import solution_text

pytestmark = pytest.mark.program


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    worker = Worker(True)
    yield worker
    worker.close()


def _job(text: str) -> Job:
    return Job(puzzle="add_blocks", text=from_text(text, "add_blocks"), seconds=2.0, seed=4)


def _others() -> set[str]:
    """Processes that only a forgery starts."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[:2] == [b"sleep", b"612"]:
            found.add(file.parent.name)
    return found


def _temporary() -> set[str]:
    return {one for one in os.listdir(tempfile.gettempdir()) if one.startswith(("puzzle-", "judge-"))}


def test_there_are_enough_of_them():
    assert len(FORGERIES) >= 40


@pytest.mark.parametrize("what", FORGERIES)
def test_no_forgery_passes(worker, what):
    """Here they are executed: the explanation that comes before (below) is left out."""
    verdict = worker.interpret(_job(FORGERIES[what]))
    assert verdict.status == "failed" and verdict.findings, what
    assert not _others(), what


def test_they_leave_nothing_and_the_judge_goes_on(worker, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mine = Worker(True)
    files = len(os.listdir("/proc/self/fd"))
    for what in ("files that stay", "the judge is killed", "a child in a session of its own"):
        assert not mine.interpret(_job(FORGERIES[what])).passed
    assert mine.interpret(_job(solution_text(1))).passed
    process = mine.running
    mine.close()
    assert process.returncode == 0 and not list(tmp_path.iterdir()) and not _others()
    assert len(os.listdir("/proc/self/fd")) <= files


@pytest.mark.parametrize("what", ["compare finds nothing", "gc: every tensor is zero", "a store by address"])
def test_a_kernel_that_reaches_out_is_told_so_before_it_runs(what):
    verdict = judge_text(PUZZLES["add_blocks"], from_text(FORGERIES[what], "add_blocks"))
    assert verdict.kinds == ("reaches_out",)
    assert verdict.findings[0].message.startswith("The kernel reaches for `")
