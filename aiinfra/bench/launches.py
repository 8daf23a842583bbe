"""What does it cost to ask? The same tiny kernels launched one by one and as one CUDA graph; copies hidden or
not.

    one by one   CPU ▪▪▪▪▪▪▪▪▪▪      a call each, as ten Redis commands are ten round trips
                 GPU  ▫ ▫ ▫ ▫ ▫ ▫
    one graph    CPU ▪               recorded once, submitted as a whole, as one Lua script is
                 GPU  ▫▫▫▫▫▫▫▫▫▫

    python -m aiinfra.bench.launches --save data/recorded/launches.json        # on a GPU

Without a GPU only the first line exists, and it shows what PyTorch itself costs a call. Notebook 08.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path

import torch

from aiinfra.device import as_device, device_name
from aiinfra.files import save_json
from aiinfra.gpu.graph import capture
from aiinfra.perf.timing import time_call


@dataclass(frozen=True)
class LaunchTimes:
    """Seconds for one of `kernels` dependent additions on `values` numbers; None where there is no GPU."""

    device: str
    date: str
    torch: str
    kernels: int
    values: int
    eager_seconds: float
    graph_seconds: float | None = None
    serial_seconds: float | None = None         # eight copies to the GPU, each followed by work on it
    overlapped_seconds: float | None = None     # the same on two streams


def measure_launches(device: torch.device | str | None = None, kernels: int = 200, values: int = 1024,
                     budget_seconds: float = 0.3) -> LaunchTimes:
    """Time `kernels` additions on a small tensor: called one by one and, on a GPU, replayed as a graph."""
    device = as_device(device)
    x = torch.zeros(values, device=device)

    def chain() -> None:
        for _ in range(kernels):
            x.add_(1)

    def seconds(work: Callable[[], object]) -> float:
        return time_call(work, device, budget_seconds=budget_seconds).median_seconds
    measured = LaunchTimes(
        device=device_name(device),
        date=date.today().isoformat(),
        torch=torch.__version__,
        kernels=kernels,
        values=values,
        eager_seconds=seconds(chain) / kernels,
    )
    if device.type == "cpu":
        return measured
    graph = capture(chain)
    return replace(
        measured,
        graph_seconds=seconds(graph.replay) / kernels,
        serial_seconds=seconds(pipeline(device, overlapped=False)),
        overlapped_seconds=seconds(pipeline(device, overlapped=True)),
    )


def pipeline(device: torch.device, overlapped: bool, chunks: int = 8,
             nbytes: int = 64 << 20) -> Callable[[], None]:
    """A function that copies `chunks` pieces to the GPU and works on each; on two streams if `overlapped`."""
    host = torch.ones(nbytes // 4).pin_memory()          # only pinned memory is copied in the background
    buffers = [torch.empty(nbytes // 4, device=device) for _ in range(chunks)]
    copying, computing = torch.cuda.Stream(device), torch.cuda.Stream(device)

    def run() -> None:
        for buffer in buffers:
            with torch.cuda.stream(copying):
                buffer.copy_(host, non_blocking=True)
            computing.wait_stream(copying)               # this chunk has arrived
            with torch.cuda.stream(computing):
                for _ in range(25):                      # about as long as the copy
                    buffer.sin_()
            if not overlapped:
                copying.wait_stream(computing)           # one queue in effect
        torch.cuda.current_stream(device).wait_stream(computing)
    return run


def main(argv: list[str] | None = None) -> None:
    """Measure, print, and save as one row with its settings."""
    question = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m aiinfra.bench.launches", description=question)
    parser.add_argument("--device", help="cpu or cuda (default: a GPU if there is one)")
    parser.add_argument("--save", type=Path, help="write the result to this JSON file")
    args = parser.parse_args(argv)
    row = measure_launches(args.device)
    record = asdict(row)
    print("\n".join(f"{name:20} {value}" for name, value in record.items()))
    if args.save:
        about = {key: record[key] for key in ("device", "date", "torch")}
        save_json([row], {"command": "python -m aiinfra.bench.launches", **about}, args.save)


if __name__ == "__main__":
    main()
