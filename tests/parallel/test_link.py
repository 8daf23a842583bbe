"""The emulated link takes the time that its formula says, and no computing waits for it; the sums are
gloo's."""

import pytest
import torch

from aiinfra.parallel.launch import launch
from aiinfra.perf.collectives import Volume
from tests.parallel import counted_steps
from tests.parallel.counted_steps import LINK

pytestmark = pytest.mark.program


def test_every_engine_computes_the_same_behind_the_link():
    sums = {rank: found["gradients"] for rank, found in enumerate(launch(counted_steps.through_the_link, 2))}
    for gradients in sums.values():
        for plain, linked in zip(gradients["plain"], gradients["linked"]):
            assert torch.equal(plain, linked)


def test_the_link_carries_what_is_counted_one_transfer_at_a_time():
    plain = launch(counted_steps.count_engines, 2)
    linked = launch(counted_steps.through_the_link, 2)
    for counted, found in zip(plain, linked):
        for engine, kinds in counted.items():
            assert found["carried"][engine] == sum(kinds.values(), Volume())
        transfers = found["transfers"]
        for before, after in zip(transfers, transfers[1:]):
            assert after.start >= before.start + LINK.seconds(before.sent) - 1e-9
        assert all(one.end - one.start >= LINK.seconds(one.sent) - 1e-4 for one in transfers)
        assert all(one.asked <= one.start for one in transfers)


def test_the_time_passes_on_the_link_not_on_the_computing_thread():
    for asked, waited, completed, (transfer,) in launch(counted_steps.asked_and_waited, 2):
        assert asked < 0.1, "asking returns at once"
        assert transfer.end - transfer.start >= 0.2
        assert waited < 0.1, "what was computed for as long as the transfer has hidden it"
        assert completed


def test_a_message_takes_its_time_once():
    for seconds, value in launch(counted_steps.messages_through_the_link, 2):
        assert value == 1
        assert 6.8e-3 <= seconds < 1                             # 2 ms, and 4.8 kB at 1 MB/s


def test_what_gloo_refuses_is_told_to_whoever_waits():
    assert all(launch(counted_steps.fails_behind_the_link, 2))
