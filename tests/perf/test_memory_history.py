"""The allocator's history: on a GPU against its own counters; anywhere, a snapshot that PyTorch's reader
takes as well."""

import pytest
import torch
from torch.cuda import _memory_viz

from aiinfra.perf.memory_history import ALLOCATED, allocator_history, read_history

OURS = {"filename": "/home/me/train.py", "line": 7, "name": "forward"}
THEIRS = {"filename": "/site-packages/torch/nn/functional.py", "line": 1, "name": "linear"}


def entry(action: str, size: int, addr: int, **more) -> dict:
    return {"action": action, "size": size, "addr": addr, "stream": 0, "frames": [THEIRS, OURS], **more}


def snapshot() -> dict:
    """100 bytes lived before; 300 come, 200 go as soon as their stream is done, and 900 are not to be had."""
    block = {"size": 200, "requested_size": 200, "address": 0, "state": "active_allocated", "frames": [OURS]}
    rest = {"size": 312, "requested_size": 0, "address": 200, "state": "inactive", "frames": []}
    segment = {"address": 0, "total_size": 512, "stream": 0, "segment_type": "small", "device": 0,
               "segment_pool_id": (0, 0), "allocated_size": 200, "active_size": 200, "blocks": [block, rest]}
    trace = [entry("segment_alloc", 512, 0), entry("alloc", 100, 100), entry("alloc", 200, 200),
             entry("free_requested", 200, 200), entry("free_completed", 200, 200),
             entry("oom", 900, 0, device_free=0)]
    return {"segments": [segment], "device_traces": [trace]}


def test_what_lives_after_each_event() -> None:
    moments = read_history(snapshot())
    assert [moment.by_kind[ALLOCATED] for moment in moments] == [200, 400, 200, 200]
    assert moments[0].operation == "alloc in forward (train.py:7)"
    assert moments[-1].operation == "out of memory: 900 bytes asked by forward (train.py:7)"


def test_pytorchs_own_reader_takes_the_same_snapshot() -> None:
    told = _memory_viz.trace(snapshot())
    assert "raise OutOfMemoryError" in told and "del " in told
    assert "segments" in _memory_viz.segsum(snapshot()).lower()


def test_a_cpu_has_none() -> None:
    with pytest.raises(ValueError, match="only a GPU's allocator keeps a history"):
        with allocator_history(torch.device("cpu")):
            pass


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_highest_moment_is_the_allocators_peak() -> None:
    device = torch.device("cuda")
    torch.cuda.reset_peak_memory_stats()
    with allocator_history(device) as moments:
        x = torch.randn(1000, 1000, device=device)
        (x @ x).sum().item()
    peak = max(moment.nbytes for moment in moments)
    assert peak == torch.cuda.max_memory_allocated()
