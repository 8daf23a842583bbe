"""Many launches recorded once and submitted as one, as one Lua script replaces many Redis calls.

    one by one   CPU ▪▪▪▪▪▪▪▪▪▪      a call each, as ten Redis commands are ten round trips
                 GPU  ▫ ▫ ▫ ▫ ▫ ▫
    one graph    CPU ▪               recorded once, submitted as a whole
                 GPU  ▫▫▫▫▫▫▫▫▫▫

The engine's decode steps and the benchmarks record in this one way. Notebooks 08 and 14.
"""

from collections.abc import Callable

import torch


def capture(work: Callable[[], None], pool: tuple[int, int] | None = None,
            stream: "torch.cuda.Stream | None" = None) -> "torch.cuda.CUDAGraph":
    """`work()` recorded as a CUDA graph: `replay()` repeats it on the same memory, without its Python. Graphs
    that never run at the same time may share a `pool`, from `torch.cuda.graph_pool_handle()`, if they are
    recorded on one `stream`. Those that may be dropped one before the other must not share it."""
    # Not PyTorch's one stream for all graphs: memory that cuBLAS works in is kept by stream, and freed with
    # the first graph recorded there, under those that remain (pytorch/pytorch issue 193402).
    stream = stream or torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):              # a first run outside the recording, as libraries want
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, stream=stream):
        work()
    return graph
