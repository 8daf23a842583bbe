"""The words in which a puzzle is declared."""

import pytest

from puzzles.tensors import evaluate


def test_grid_expressions():
    assert evaluate("cdiv(N, BLOCK)", dict(N=65, BLOCK=32)) == 3
    with pytest.raises(NameError):
        evaluate("__import__('os')", {})
