"""What a kernel's tiling needs to know about the chip it will run on.

Tiles are compile-time constants picked from a small table by head size, dtype and compute
capability. The interpreter counts as capability 0: it gets the smallest tiles, so that a tensor
of forty rows already has whole blocks, a diagonal block and a ragged end.
"""

from functools import lru_cache

import torch

# Shared memory one program may ask for, in bytes: the multiprocessor's capacity less the 1 KiB that
# the system keeps (CUDA C++ programming guide, technical specifications per compute capability).
SHARED_LIMIT = {75: 65_536, 80: 166_912, 86: 101_376, 89: 101_376,
                90: 232_448, 100: 232_448, 120: 101_376}


def arch_of(tensor: torch.Tensor) -> int:
    """Compute capability of the tensor's GPU, 90 for 9.0; 0 on a CPU, where kernels are interpreted."""
    return _properties(tensor.device)[0]


def multiprocessors_of(tensor: torch.Tensor) -> int:
    """Streaming multiprocessors of the tensor's GPU: how many programs run side by side, at least."""
    return _properties(tensor.device)[1]


def large_shared(arch: int) -> bool:
    """True on data-centre chips (A100, H100, B200): 160 KB or more; gaming chips have 100 KB or less."""
    return arch in (80, 87) or 90 <= arch < 120


@lru_cache(maxsize=64)
def _properties(device: torch.device) -> tuple[int, int]:
    """Compute capability and multiprocessors; whoever has a GPU imitated puts a function in its place."""
    if device.type != "cuda":
        return 0, 2
    found = torch.cuda.get_device_properties(device)
    return 10 * found.major + found.minor, found.multi_processor_count
