"""Who is who in a communicator, and what its ranks send."""

import pytest
import torch

from aiinfra.lab.threads import in_threads
from aiinfra.parallel.communicator import Communicator

NOTE = torch.zeros(5, dtype=torch.float64)


def columns(comm):
    """Of a 2 x 3 mesh, my column talks to itself: the number in it, and what the other one sent."""
    column = comm.among([comm.rank % 3, comm.rank % 3 + 3])
    column.send(NOTE + comm.rank, to=1 - column.rank)
    return column.rank, column.size, column.receive(NOTE, source=1 - column.rank)[0].item()


def test_members_are_numbered_anew_and_find_each_other():
    seen = in_threads(columns, 6)
    assert seen == [(0, 2, 3), (0, 2, 4), (0, 2, 5), (1, 2, 0), (1, 2, 1), (1, 2, 2)]


def test_what_is_sent_is_counted_through_all_of_a_rank_s_communicators():
    def work(comm):
        columns(comm)
        comm.send(NOTE, to=(comm.rank + 1) % comm.size)
        comm.receive(NOTE, source=(comm.rank - 1) % comm.size)
        return comm.sent.nbytes, comm.sent.messages

    assert in_threads(work, 6) == [(80, 2)] * 6


def test_who_is_no_member_is_refused():
    with pytest.raises(ValueError, match=r"rank 3 is not among \[0, 1\]"):
        Communicator([0, 1], me=3, wire=None)
