"""What a machine can do at most: published for known GPUs, measured for the one you sit at.

    SHEETS["H100 SXM"]        what the maker says
    measure(device)           what this machine does, now, in a second or two

Three limits explain most of what follows in this course: bytes/s from memory, FLOP/s in matrix
multiplication, and the seconds that it costs merely to ask for an operation. Notebook 00.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from aiinfra.device import device_name, free_bytes, has_onednn
from aiinfra.perf.timing import time_call


@dataclass(frozen=True)
class Hardware:
    """Limits of one device. FLOP/s are dense (no sparsity); None where the maker gives no figure."""

    name: str
    memory_bytes: float
    bandwidth: float                      # bytes/s, reading
    float32: float                        # FLOP/s, no tensor cores
    bfloat16: float | None = None         # FLOP/s
    fp8: float | None = None              # FLOP/s
    dispatch_seconds: float | None = None  # per operation asked for, measured
    source: str = ""

    def peak(self, dtype: torch.dtype) -> float:
        """FLOP/s for `dtype`. Raises ValueError where the sheet has none."""
        known = {torch.float32: self.float32, torch.bfloat16: self.bfloat16, torch.float16: self.bfloat16,
                 torch.float8_e4m3fn: self.fp8}
        peak = known.get(dtype)
        if peak is None:
            raise ValueError(f"{self.name}: its sheet has no figure for {dtype}.")
        return peak


_NVIDIA = "NVIDIA data sheet"
_READ_ON_CPU, _READ_ON_GPU = 512 << 20, 4 << 30          # bytes
_LIMIT_FILES = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
SHEETS = {sheet.name: sheet for sheet in (
    Hardware("H20", memory_bytes=96e9, bandwidth=4.0e12, float32=44e12, bfloat16=148e12, fp8=296e12,
             source="LMSYS and Ant Group, 2025-09-26 (bf16, fp8); third-party tables (bandwidth, fp32)"),
    Hardware("A100 SXM 80GB", memory_bytes=80e9, bandwidth=2.039e12, float32=19.5e12, bfloat16=312e12,
             source=_NVIDIA),
    Hardware("H100 SXM", memory_bytes=80e9, bandwidth=3.35e12, float32=67e12, bfloat16=989e12,
             fp8=1979e12, source=_NVIDIA),
    Hardware("H200 SXM", memory_bytes=141e9, bandwidth=4.8e12, float32=67e12, bfloat16=989e12,
             fp8=1979e12, source=_NVIDIA),
    Hardware("H800 SXM", memory_bytes=80e9, bandwidth=3.35e12, float32=67e12, bfloat16=989e12,
             fp8=1979e12, source="NVIDIA's H100 with slower links; DeepSeek-AI 2024, arXiv 2412.19437"),
    Hardware("B200 SXM", memory_bytes=180e9, bandwidth=8.0e12, float32=80e12, bfloat16=2250e12,
             fp8=4500e12, source="NVIDIA data sheets of HGX B200 and DGX B200; dense is half of sparse"),
)}


def measure(device: torch.device | str = "cpu", budget_seconds: float = 0.4) -> Hardware:
    """Measure this device: read bandwidth, matrix FLOP/s in float32 (and bfloat16 on a GPU), dispatch cost.

    Takes about 4 · budget_seconds. Run it on an otherwise idle machine.
    """
    device = torch.device(device)
    on_gpu = device.type == "cuda"
    bandwidth = read_bandwidth(device, budget_seconds=budget_seconds)
    float32 = matmul_flops(device, torch.float32, budget_seconds=budget_seconds)
    bfloat16 = None
    if on_gpu:
        bfloat16 = matmul_flops(device, torch.bfloat16, budget_seconds=budget_seconds)
    return Hardware(
        name=device_name(device),
        memory_bytes=device_memory_bytes(device),
        bandwidth=bandwidth,
        float32=float32,
        bfloat16=bfloat16,
        dispatch_seconds=dispatch_seconds(device),
        source="measured here",
    )


def read_bandwidth(device: torch.device | str, nbytes: int | None = None,
                   budget_seconds: float = 0.4) -> float:
    """Bytes/s of reading memory once, by a sum over a tensor far larger than any cache (default: 512 MB, on a
    GPU 4 GB, or a quarter of what is free there: an engine may have the rest). The best of the repetitions:
    interruptions can only slow it down."""
    if nbytes is None:
        free = free_bytes(device)
        nbytes = _READ_ON_CPU if free is None else min(_READ_ON_GPU, free // 4)
    x = torch.ones(nbytes // 4, dtype=torch.float32, device=device)
    return nbytes / min(time_call(x.sum, device, budget_seconds=budget_seconds).seconds)


def matmul_flops(device: torch.device | str, dtype: torch.dtype, size: int | None = None,
                 budget_seconds: float = 0.4) -> float:
    """FLOP/s of a square matrix product (default: 1536, on a GPU 8192): the best of the repetitions, and on a
    CPU the better of PyTorch's plain product and oneDNN's on a weight that was packed before."""
    size = size or (8192 if torch.device(device).type == "cuda" else 1536)
    a = torch.randn(size, size, device=device, dtype=dtype)
    b = torch.randn(size, size, device=device, dtype=dtype)
    ways = [lambda: a @ b]
    onednn = torch.ops.mkldnn
    if a.device.type == "cpu" and dtype == torch.float32 and has_onednn():
        packed = onednn._reorder_linear_weight(b)
        ways.append(lambda: onednn._linear_pointwise(a, packed, None, "none", [], ""))
    each = budget_seconds / len(ways)
    best = min(min(time_call(way, device, budget_seconds=each).seconds) for way in ways)
    return 2 * size**3 / best


def dispatch_seconds(device: torch.device | str, operations: int = 1000) -> float:
    """Seconds that one operation on a one-element tensor costs, asked for one after another."""
    x = torch.ones(1, device=device)

    def many() -> None:
        for _ in range(operations):
            x.add(1)
    return time_call(many, device, budget_seconds=0.1).median_seconds / operations


def device_memory_bytes(device: torch.device | str) -> int:
    """All memory of a GPU; of a CPU, what the machine has, or less if this container may use less."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *_container_limits()])


def _container_limits() -> list[int]:
    """What Linux's control groups allow, where they do; "max" is no limit."""
    found = []
    for path in _LIMIT_FILES:
        with suppress(OSError):
            text = path.read_text().strip()
            found += [int(text)] if text.isdigit() else []
    return found
