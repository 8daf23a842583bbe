"""A recorded graph repeats its work on the same memory."""

from weakref import WeakSet

import pytest
import torch

from aiinfra.gpu import graph
from aiinfra.gpu.graph import capture, recording_stream


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_replay_repeats_the_work() -> None:
    x = torch.zeros(4, device="cuda")
    recorded = capture(lambda: x.add_(1))
    before = x.clone()
    recorded.replay()
    torch.cuda.synchronize()
    assert torch.equal(x, before + 1)


class FromARing:
    """As PyTorch's streams: a few, handed out in turn; two objects of one stream are equal."""

    handed = 0

    def __init__(self, device=None) -> None:
        self.number = FromARing.handed % 32
        FromARing.handed += 1

    def __eq__(self, other) -> bool:
        return self.number == other.number

    def __hash__(self) -> int:
        return self.number


def test_no_two_graphs_that_live_are_recorded_on_one_stream(monkeypatch) -> None:
    """Old code: engine 33 had the stream of engine 1, and freed its working memory when it was dropped."""
    monkeypatch.setattr(torch.cuda, "Stream", FromARing)
    monkeypatch.setattr(graph, "_taken", WeakSet())
    living = recording_stream()
    for _ in range(100):                           # as many engines as one likes, one after the other
        assert recording_stream() != living
    others = [recording_stream() for _ in range(31)]
    assert len({stream.number for stream in others} | {living.number}) == 32
    with pytest.raises(RuntimeError, match="all 32 streams .* Drop an engine"):
        recording_stream()
    del others[3]
    assert recording_stream() not in others
