"""One interpreting worker for the tests of a file."""

from pathlib import Path

import pytest

from puzzles.checking import Workers
from puzzles.judge.process import Worker

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def workers():
    worker = Worker(True, path=(str(ROOT),))         # it finds the probe's answers here
    yield Workers(interpreter=worker, compiler=worker)
    worker.close()
