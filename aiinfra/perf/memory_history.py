"""What a GPU's allocator gave and took, moment by moment: its own history as the recorder's records.

    alloc ──► + size        free_requested ──► nothing yet: a stream may still read it
                            free_completed ──► − size

The recorder sees the results of operations; the allocator sees work space inside them, too, and rounds sizes
up. What stands in a snapshot is documented at `torch.cuda.memory._snapshot`, which says itself that it is for
users, underscore or not. On a CPU there is no such allocator. Notebook 05.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from aiinfra.perf.memory import MemoryMoment

ALLOCATED = "allocated"
_SIGNS = {"alloc": 1, "free_completed": -1}
_MOST_ENTRIES = 1_000_000


@contextmanager
def allocator_history(device: torch.device, most: int = _MOST_ENTRIES) -> Iterator[list[MemoryMoment]]:
    """A list that holds a moment for each allocation within, once the context is left.

    Raises ValueError for a device that is no GPU, and RuntimeError if there were `most` events or more: the
    first of them are lost then.
    """
    if device.type != "cuda":
        raise ValueError(f"device={str(device)!r}: only a GPU's allocator keeps a history. On a CPU use "
                         "MemoryRecorder, which sees what operations return.")
    moments: list[MemoryMoment] = []
    torch.cuda.memory._record_memory_history(stacks="python", max_entries=most)
    try:
        yield moments
    finally:
        torch.cuda.synchronize(device)
        snapshot = torch.cuda.memory._snapshot()
        torch.cuda.memory._record_memory_history(enabled=None)
    number = torch.cuda.current_device() if device.index is None else device.index
    if len(snapshot["device_traces"][number]) >= most:
        raise RuntimeError(f"the history has {most:,} events, as many as it may hold; older ones are lost. "
                           "Record less, or pass a larger most=.")
    moments += read_history(snapshot, number)


def read_history(snapshot: dict[str, Any], device: int = 0) -> list[MemoryMoment]:
    """The moments of a snapshot's trace of one device. An attempt that found no memory is one, too, with what
    lived then. Segments, which the allocator holds in reserve, are not counted."""
    trace = snapshot["device_traces"][device]
    changes = [_SIGNS.get(entry["action"], 0) * entry["size"] for entry in trace]
    segments = [one for one in snapshot["segments"] if one.get("device", device) == device]
    living = sum(segment["active_size"] for segment in segments) - sum(changes)   # before the history began
    moments = []
    for entry, change in zip(trace, changes, strict=True):
        living += change
        if change or entry["action"] == "oom":
            moments.append(MemoryMoment("", _who(entry), {ALLOCATED: living}))
    return moments


def _who(entry: dict[str, Any]) -> str:
    """The innermost Python frame that is not PyTorch's own; "out of memory, asked by …" for an oom."""
    frames = entry.get("frames", [])
    own = [frame for frame in frames if "/torch/" not in frame["filename"]]
    where = "unknown"
    if own:
        file = own[0]["filename"].rpartition("/")[2]
        where = f"{own[0]['name']} ({file}:{own[0]['line']})"
    if entry["action"] == "oom":
        return f"out of memory: {entry['size']:,} bytes asked by {where}"
    return f"{entry['action']} in {where}"
