"""The bubble as it is defined, the ring's frames as the ring really is, and figures that hold their words."""

from itertools import count

import numpy as np
import pytest
import torch

from aiinfra.lab.figures.ranks import bubble, draw_ring, draw_turns, ring_frames
from aiinfra.lab.threads import in_threads
from aiinfra.parallel.by_hand import Turn, all_gather, one_f_one_b, reduce_scatter


def played(stages: int, micro_batches: int) -> list[list[Turn]]:
    """A pipeline by the clock of its formula: forward takes 1, backward 2, a message nothing."""
    rows = [one_f_one_b(stage, stages, micro_batches) for stage in range(stages)]
    ends: dict[tuple[str, int, int], float] = {}
    turns: list[list[Turn]] = [[] for _ in rows]
    while any(len(done) < len(row) for done, row in zip(turns, rows)):
        for stage, (done, row) in enumerate(zip(turns, rows)):
            if len(done) == len(row):
                continue
            work = row[len(done)]
            i = row[:len(done)].count(work)
            other = stage - 1 if work == "F" else stage + 1
            if 0 <= other < stages and (work, i, other) not in ends:
                continue
            begin = max(ends.get((work, i, other), 0.0), done[-1].end if done else 0.0)
            end = begin + (1 if work == "F" else 2)
            ends[work, i, stage] = end
            done.append(Turn(work=work, micro_batch=i, begin=begin, end=end, held=0))
    return turns


@pytest.mark.parametrize("stages, micro_batches", [(1, 3), (2, 1), (4, 8), (4, 2)])
def test_the_bubble_of_even_stages_is_the_formula_s(stages, micro_batches):
    idle = bubble(played(stages, micro_batches))
    assert idle == pytest.approx((stages - 1) / (micro_batches + stages - 1))


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


def test_figures_name_ranks_and_turns():
    turns = played(2, 3)
    ax, = draw_turns(turns, "two stages").axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["rank 0", "rank 1"]
    assert sorted(text.get_text() for text in ax.texts) == sorted("012" * 4)
    ax, = draw_ring(np.full((3, 3), 3.0), "whole").axes
    assert {text.get_text() for text in ax.texts} == {"3"}
    assert {text.get_weight() for text in ax.texts} == {"bold"}
