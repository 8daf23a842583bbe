"""The judge's own process: a crash is a verdict, and nothing is left behind."""

from tests.puzzles.forgeries import FORGERIES
from tests.puzzles.judge.conftest import ROOT
from tests.puzzles.judge.probe import OFFSETS, probe

from puzzles.catalogue import PUZZLES
from puzzles.checking import Workers, judge_text
from puzzles.judge.job import Job
from puzzles.judge.process import Worker
from puzzles.source import from_text


def test_a_crash_is_a_verdict(workers):
    text = from_text(FORGERIES["an abort"], "add_blocks")
    verdict = workers.interpreter.interpret(Job(puzzle="add_blocks", text=text))
    assert verdict.status == "failed" and verdict.kinds == ("crash",)
    assert "SIGABRT" in verdict.findings[0].message and verdict.findings[0].line
    assert probe(workers, OFFSETS + "tl.store(z_ptr + i, tl.load(x_ptr + i))").passed


def test_text_that_is_not_python(workers):
    verdict = judge_text(
        PUZZLES["add_constant"],
        from_text("import triton\n\ndef probe(x_ptr:\n", "probe"),
        full=False,
        workers=workers,
    )
    assert verdict.kinds == ("error",) and verdict.findings[0].line == 3


def test_nothing_is_left_behind():
    worker = Worker(True, path=(str(ROOT),))
    verdict = probe(Workers(worker, worker), OFFSETS + "tl.store(z_ptr + i, tl.load(x_ptr + i))")
    process = worker.running
    assert verdict.passed and process.poll() is None
    process.stdin.close()                       # what the end of a notebook's kernel does
    assert process.wait(timeout=10) == 0
