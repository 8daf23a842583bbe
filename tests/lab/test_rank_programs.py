"""A rank's program is judged: what it returns and sends, and that it ends, and agrees."""

import pytest
import torch

from aiinfra.lab import rank_programs
from aiinfra.lab.exercise import Unsolved, Wrong
from aiinfra.lab.rank_programs import agree, run_ranks

ONE = torch.ones(1)


def test_results_come_in_order_with_the_bytes_of_the_busiest():
    def program(comm):
        for _ in range(comm.rank):
            comm.send(ONE, to=0)
        return comm.rank

    assert run_ranks(program, 3) == ([0, 1, 2], 8)


def test_a_deadlock_is_a_wrong_answer_that_says_who_waits():
    with pytest.raises(Wrong, match="rank 0 waits for rank 1.*also those that have nothing to add"):
        run_ranks(lambda comm: comm.receive(ONE, source=1) if comm.rank == 0 else None, 2)


def test_a_loop_without_an_end_is_a_wrong_answer(monkeypatch):
    monkeypatch.setattr(rank_programs, "_SECONDS", 0.1)

    def program(comm):
        while True:
            pass

    with pytest.raises(Wrong, match="still running"):
        run_ranks(program, 1)


def test_the_stub_is_no_answer():
    with pytest.raises(Unsolved):
        run_ranks(lambda comm: ..., 2)


def test_ranks_that_differ_are_named():
    agree([ONE, ONE + 1e-12], "the sum")
    with pytest.raises(Wrong, match="the sum is not the same on rank 0 and rank 2"):
        agree([ONE, ONE, 2 * ONE], "the sum")
