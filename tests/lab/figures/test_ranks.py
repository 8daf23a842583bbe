"""The ring's frames as a real ring has them, and figures that hold their words."""

from itertools import count

import numpy as np
import pytest
import torch

from aiinfra.lab.figures.ranks import draw_ring, draw_timeline, ring_frames
from aiinfra.lab.threads import in_threads
from aiinfra.parallel.by_hand import all_gather, reduce_scatter
from aiinfra.parallel.orders import make_table
from aiinfra.parallel.timing import time_table


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_frames_are_what_a_real_ring_has_after_each_message(ranks):
    """A piece holds a count, and its own number times the count: a message tells which piece it is."""
    frames = ring_frames(ranks)
    tensor = torch.stack([torch.ones(ranks), torch.arange(ranks, dtype=torch.float32)], 1)

    def work(comm):
        seen, receive = [], comm.receive
        comm.receive = lambda like, source: seen.append(receive(like, source)) or seen[-1]
        all_gather(reduce_scatter(tensor, comm), tensor, comm)
        return seen

    for rank, arrivals in enumerate(in_threads(work, ranks)):
        for message, (many, weighted) in zip(count(1), arrivals, strict=False):
            piece = round((weighted / many).item())
            mine = 1 if message < ranks else 0
            assert frames[message][rank, piece] == many + mine
    assert (frames[0] == 1).all() and (frames[-1] == ranks).all()


@pytest.mark.parametrize("schedule, kinds", [
    ("1f1b", ["forward", "backward"]),
    ("zero_bubble", ["forward", "backward: inputs", "backward: weights"]),
])
def test_a_timeline_names_ranks_micro_batches_and_kinds(schedule, kinds):
    fig = draw_timeline(time_table(make_table(schedule, 2, 3)), "two stages", unit="forward passes")
    ax, = fig.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["rank 0", "rank 1"]
    assert sorted(text.get_text() for text in ax.texts) == sorted("012" * 2 * len(kinds))
    assert [text.get_text() for text in fig.legends[0].get_texts()] == [*kinds, "waits"]


def test_a_whole_piece_is_bold():
    ax, = draw_ring(np.full((3, 3), 3.0), "whole").axes
    assert {text.get_text() for text in ax.texts} == {"3"}
    assert {text.get_weight() for text in ax.texts} == {"bold"}
