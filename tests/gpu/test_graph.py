"""A recorded graph repeats its work on the same memory."""

import pytest
import torch

from aiinfra.gpu.graph import capture


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_replay_repeats_the_work() -> None:
    x = torch.zeros(4, device="cuda")
    graph = capture(lambda: x.add_(1))
    before = x.clone()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(x, before + 1)
