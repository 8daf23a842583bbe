"""Threads as ranks: messages in order, the first error, deadlocks named, loops ended, nothing left behind."""

import threading
import time

import pytest
import torch

from aiinfra.lab.threads import Deadlock, in_threads

ONE = torch.ones(1)


def pass_on(comm):
    """Around the ring, each adds its number."""
    if comm.rank == 0:
        comm.send(ONE, to=1)
        return comm.receive(ONE, source=comm.size - 1).item()
    seen = comm.receive(ONE, source=comm.rank - 1) + comm.rank
    comm.send(seen, to=(comm.rank + 1) % comm.size)
    return seen.item()


def test_each_rank_returns_its_own_in_order():
    assert in_threads(pass_on, 4) == [7, 2, 4, 7]


def test_messages_of_one_sender_come_in_order_and_are_copies():
    def work(comm):
        if comm.rank == 0:
            note = torch.zeros(1)
            for value in range(50):
                note.fill_(value)
                comm.send(note, to=1)
            return None
        return [comm.receive(ONE, source=0).item() for _ in range(50)]

    assert in_threads(work, 2)[1] == list(range(50))


def test_a_deadlock_says_who_waits_for_whom():
    def work(comm):
        comm.receive(ONE, source=(comm.rank + 1) % comm.size)

    with pytest.raises(Deadlock, match="rank 0 waits for rank 1; rank 1 waits for rank 2; rank 2 waits"):
        in_threads(work, 3)


def test_one_that_waits_for_somebody_who_has_left_is_told_so():
    def work(comm):
        if comm.rank == 1:
            comm.receive(ONE, source=0)

    with pytest.raises(Deadlock, match="rank 1 waits for rank 0, which has ended"):
        in_threads(work, 2)


def test_the_error_of_the_first_rank_is_raised_and_the_others_stop():
    def work(comm):
        if comm.rank == 2:
            raise KeyError("mine")
        comm.receive(ONE, source=2)

    with pytest.raises(KeyError, match="mine") as caught:
        in_threads(work, 3)
    assert caught.value.__notes__ == ["(raised by rank 2 of 3)"]


def test_a_loop_without_an_end_is_ended():
    def work(comm):
        while comm.rank == 1:
            pass

    before = threading.active_count()
    with pytest.raises(TimeoutError, match=r"1 rank \(rank 1\) still running"):
        in_threads(work, 2, seconds=0.2)
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_a_tensor_of_another_shape_or_dtype_is_refused():
    def work(comm):
        if comm.rank == 0:
            comm.send(torch.ones(2, 3), to=1)
        else:
            comm.receive(torch.ones(3, 2, dtype=torch.float64), source=0)

    with pytest.raises(ValueError, match=r"expects \[3, 2\] of float64 from rank 0, which sent \[2, 3\]"):
        in_threads(work, 2)


@pytest.mark.parametrize("on", [True, False])
def test_ranks_compute_gradients_if_the_caller_does(on):
    with torch.set_grad_enabled(on):
        assert in_threads(lambda comm: torch.is_grad_enabled(), 2) == [on, on]
