"""Many launches recorded once and submitted as one, as one Lua script replaces many Redis calls.

    one by one   CPU ▪▪▪▪▪▪▪▪▪▪      a call each, as ten Redis commands are ten round trips
                 GPU  ▫ ▫ ▫ ▫ ▫ ▫
    one graph    CPU ▪               recorded once, submitted as a whole
                 GPU  ▫▫▫▫▫▫▫▫▫▫

The engine's decode steps and the benchmarks record in this one way. Notebooks 08 and 14.
"""

from collections.abc import Callable
from weakref import WeakSet

import torch

_STREAMS = 32                # PyTorch hands out so many of a device, in turn, and then the first again
_taken: "WeakSet[torch.cuda.Stream]" = WeakSet()       # those of graphs that are still there


def capture(work: Callable[[], None], pool: tuple[int, int] | None = None,
            stream: "torch.cuda.Stream | None" = None) -> "torch.cuda.CUDAGraph":
    """`work()` recorded as a CUDA graph: `replay()` repeats it on the same memory, without its Python. Graphs
    that never run at the same time may share a `pool`, from `torch.cuda.graph_pool_handle()`, if they are
    recorded on one `stream`. Those that may be dropped one before the other must not share it."""
    stream = stream or recording_stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):              # a first run outside the recording, as libraries want
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, stream=stream):
        work()
    graph.recorded_on = stream                   # which is nobody else's as long as this graph lives
    return graph


def recording_stream(device: torch.device | None = None) -> "torch.cuda.Stream":
    """A stream on which no graph was recorded that is still there. Raises RuntimeError if there is none.

    Memory that cuBLAS works in is kept by stream, and freed with the first graph that was recorded there,
    under those that remain (pytorch/pytorch issue 193402); and PyTorch's streams come from a ring."""
    for _ in range(_STREAMS):
        stream = torch.cuda.Stream(device)
        if stream not in _taken:
            _taken.add(stream)
            return stream
    raise RuntimeError(f"graphs recorded on all {_STREAMS} streams of the GPU are still there. Drop an "
                       "engine that is not used any more, or make it with cuda_graphs=False.")
