"""What has no end gets a verdict, too: loops, memory, grids, recursion; and an interrupt leaves nothing
behind."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import triton
import triton.language as tl
from tests.puzzles.forgeries import FORGERIES, forgery
from tests.puzzles.judge.conftest import ROOT

from puzzles.catalogue import PUZZLES
from puzzles.checking import check
from puzzles.grid import MOST_PROGRAMS, launch_grids
from puzzles.judge import compiled
from puzzles.judge.job import Job
from puzzles.judge.process import Worker
from puzzles.source import BadInput, from_kernel, from_text

pytestmark = pytest.mark.program


def _job(text: str, seconds: float = 20.0) -> Job:
    return Job(puzzle="add_blocks", text=from_text(text, "add_blocks"), seconds=seconds, seed=4)


def _until(true, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.1)
    return true()


def test_memory_is_told_as_memory(workers):
    for attack in ("bytearray(64 << 30)", "import numpy; numpy.ones(8 << 30)"):
        verdict = workers.interpreter.interpret(_job(forgery(attack)))
        assert verdict.kinds == ("memory_limit",) and verdict.findings[0].line
        assert "needs more memory than 2,048 MiB" in verdict.findings[0].message


def test_the_disk_is_not_filled(workers):
    verdict = workers.interpreter.interpret(_job(forgery("for _ in range(100): os.write(1, bytes(1 << 20))")))
    assert verdict.status == "failed" and "File too large" in verdict.findings[0].message
    assert len(verdict.printed) < 200_000


def test_grids_of_millions_are_counted_before_anything_runs():
    grid = lambda meta: (meta["N"] * 1000, meta["M"] * 1000)  # noqa: E731
    with pytest.raises(BadInput, match=rf"[\d,]{{9,}} programs, and at most {MOST_PROGRAMS:,} are launched"):
        launch_grids(PUZZLES["outer_sum_2d"], grid, seed=1)


def _endless(meta):
    while True:
        pass


def _leaving(meta):
    raise SystemExit("enough")


@triton.jit
def outer_sum_2d(x_ptr, y_ptr, z_ptr, N, M, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr):
    tl.store(z_ptr, 0.0)


def test_a_grid_function_that_loops_or_leaves_is_a_verdict():
    begin = time.monotonic()
    verdict = check("outer_sum_2d", outer_sum_2d, _endless, seconds=0.3)
    assert verdict.kinds == ("time_limit",) and "your grid function" in verdict.findings[0].message
    assert time.monotonic() - begin < 10
    assert "SystemExit: enough" in check("outer_sum_2d", outer_sum_2d, _leaving).findings[0].message


@triton.jit
def calls_itself(x_ptr, z_ptr, c, BLOCK: tl.constexpr):
    calls_itself(x_ptr, z_ptr, c, BLOCK)


def test_a_kernel_that_calls_itself_is_one_sentence():
    with pytest.raises(BadInput, match="`calls_itself` calls itself: a kernel has no recursion"):
        from_kernel(calls_itself)


def test_recursion_in_a_file_is_a_verdict(workers):
    text = forgery("attack(z_ptr)")
    verdict = workers.interpreter.interpret(_job(text))
    assert verdict.kinds == ("error",) and "RecursionError" in verdict.findings[0].message


def test_a_comment_at_the_margin():
    if True:
        @triton.jit
        def add_constant(x_ptr, z_ptr, c, BLOCK: tl.constexpr):
            i = tl.arange(0, BLOCK)
# a comment at column 0
            tl.store(z_ptr + i, tl.load(x_ptr + i) + c)
    [piece] = from_kernel(add_constant).pieces
    assert piece.text.splitlines()[-1] == "    tl.store(z_ptr + i, tl.load(x_ptr + i) + c)"
    assert len(piece.text.splitlines()) == add_constant.fn.__code__.co_firstlineno + 4


def test_a_slow_compiler_is_no_endless_loop(monkeypatch, tmp_path):
    monkeypatch.setattr(compiled, "build_translated", lambda *_: time.sleep(60))
    said = compiled._in_fork({80: tmp_path / "kernel.ttir"}, seconds=0.2)
    assert re.search(r"the compiler was still at work after 0.2 s", said[80]["error"])


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    worker = Worker(True)
    process = worker.running

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        assert _until(lambda: any(tmp_path.iterdir()))
        signal.alarm(8)                              # by then the endless loop runs, also on a busy machine
        with pytest.raises(KeyboardInterrupt):
            worker.interpret(_job(FORGERIES["no alarm rings, and a loop"], seconds=60.0))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert process.poll() is not None and not list(tmp_path.iterdir())


_RESTARTED = """
from tests.puzzles.forgeries import FORGERIES
from puzzles.judge.job import Job
from puzzles.judge.process import Worker
from puzzles.source import from_text
worker = Worker(True)
print(worker.running.pid, flush=True)
text = from_text(FORGERIES["no alarm rings, and a loop"], "add_blocks")
worker.interpret(Job(puzzle="add_blocks", text=text, seconds=60.0))
"""


def test_the_death_of_the_notebook_leaves_nothing(tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    notebook = subprocess.Popen([sys.executable, "-c", _RESTARTED], env=environment, stdout=subprocess.PIPE)
    service = Path("/proc") / notebook.stdout.readline().decode().strip()
    assert _until(lambda: any(tmp_path.glob("judge-*/puzzle-*/piece0.py")), seconds=60)
    notebook.kill()
    notebook.wait()
    notebook.stdout.close()
    assert _until(lambda: not service.exists()) and _until(lambda: not list(tmp_path.iterdir()))
