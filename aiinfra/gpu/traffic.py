"""What a Triton kernel asks of memory, counted load by load in Triton's interpreter.

    with kernel_traffic() as traffic:
        rms_norm(x, weight, backend="triton")          traffic.read, traffic.written      [bytes]

The interpreter carries out every load and store with an array of addresses and a mask; the bytes
behind each unmasked address are added up. Nothing is estimated, so the count is the same on every
machine. A compiled kernel leaves no such trace: on a GPU `counted` is False and both sums stay 0.
Notebook 10.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from aiinfra.environment import triton_interpreted
from aiinfra.gpu.replaced import replaced


@dataclass
class KernelTraffic:
    """Bytes that interpreted kernels read and wrote; `counted` says whether anything could be."""

    read: int = 0
    written: int = 0
    counted: bool = False

    @property
    def bytes(self) -> int:
        """Both directions together."""
        return self.read + self.written


@contextmanager
def kernel_traffic() -> Iterator[KernelTraffic]:
    """Count the loads and stores of every interpreted kernel that runs inside the block.

    Atomics are not counted; no kernel of this project uses one.
    """
    traffic = KernelTraffic(counted=triton_interpreted())
    if not traffic.counted:
        yield traffic
        return
    from triton.runtime.interpreter import interpreter_builder as builder
    load, store = builder.create_masked_load, builder.create_masked_store

    def counting_load(ptrs, mask, *rest):
        traffic.read += _bytes(ptrs, mask)
        return load(ptrs, mask, *rest)

    def counting_store(ptrs, value, mask, *rest):
        traffic.written += _bytes(ptrs, mask)
        return store(ptrs, value, mask, *rest)

    with replaced(builder, create_masked_load=counting_load, create_masked_store=counting_store):
        yield traffic


def _bytes(ptrs, mask) -> int:
    return int(mask.data.sum()) * ptrs.get_element_ty().primitive_bitwidth // 8
