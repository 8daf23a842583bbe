"""Phases are parts of a step; a GPU is waited for once, at its end."""

import time

import pytest
import torch

from aiinfra.gpu.fake import fake_gpu
from aiinfra.train.clock import StepClock


def test_phases_of_one_name_add_up() -> None:
    clock = StepClock(torch.device("cpu"))
    for name in ("data", "forward", "data"):
        with clock.phase(name):
            time.sleep(0.02)
    clock.stop()
    assert 0.04 <= clock.phases.data < 0.04 + clock.phases.forward + 0.05
    assert clock.phases.data + clock.phases.forward <= clock.seconds and clock.phases.optimizer == 0.0


def test_a_gpu_is_not_waited_for_between_phases(monkeypatch) -> None:
    """Old code: torch.cuda.synchronize at the end of each, three times a micro-batch."""
    with fake_gpu() as gpu:
        monkeypatch.setattr(torch.cuda.Event, "elapsed_time", lambda self, other: 2.0)      # milliseconds
        waits = []
        monkeypatch.setattr(torch.cuda.Event, "synchronize", lambda self: waits.append(self))
        clock = StepClock(gpu.device)
        for name in ("forward", "backward", "forward"):
            with clock.phase(name):
                torch.ones(3, device=gpu.device)
        assert not waits and gpu.complaints == []
        clock.stop()
        assert len(waits) == 1 and clock.phases.forward == pytest.approx(0.004) and clock.seconds == 0.002
