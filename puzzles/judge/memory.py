"""Every tensor in an address range of its own, between two guard zones.

    slab 0 (16 GiB of addresses)     slab 1                           slab 2
    ├──────── guard x x x guard ─────┼──────── guard z z z guard ─────┼─────── ...

Slabs are reserved addresses, not memory: only the touched pages exist. A slab is so wide that no
32-bit index into one tensor can reach another, so the slab of an address names the tensor it was
computed from. Invariant: an access is legal iff it hits an element of its own tensor; the gaps
between the rows of a strided tensor are not elements.
"""

import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

GUARD_BYTES = 4096
CANARY = 0xA5
_SLAB_BYTES = 16 << 30                # int32 indices reach 8 GiB to either side of 4-byte elements
_SMALLEST_SLAB = 64 << 20
_NORESERVE = 0x4000                   # Linux; mmap names it only from Python 3.13
_RESERVED_ONLY = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE


@dataclass
class Region:
    """One tensor in watched memory. `owner[p]` is the element at position p, or -1 for a gap."""

    name: str
    tensor: torch.Tensor
    raw: torch.Tensor                 # uint8: guard, span, guard
    start: int                        # address of position 0
    owner: np.ndarray
    is_output: bool

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return self.tensor.element_size()

    def coordinate(self, element: int) -> str:
        """The index of an element as a reader writes it: `x[3, 17]`."""
        index = ()
        if self.tensor.dim():
            index = np.unravel_index(element, tuple(self.tensor.shape))
        return f"{self.name}[{', '.join(map(str, index))}]"

    def canaries_intact(self) -> bool:
        """False if anything wrote into the guard zones or into a gap."""
        raw = self.raw.cpu().numpy()
        starts = GUARD_BYTES + np.flatnonzero(self.owner >= 0) * self.itemsize
        elements = starts[:, None] + np.arange(self.itemsize)
        nobodys = np.ones(len(raw), bool)
        nobodys[elements.ravel()] = False
        return bool((raw[nobodys] == CANARY).all())


class Memory:
    """The tensors of one launch. `regions` is in the kernel's order."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], outputs: set[str]):
        self._map, self.slab_bytes = _reserve(len(tensors) + 1)
        self.base = torch.frombuffer(self._map, dtype=torch.uint8, count=1).data_ptr()
        self.regions: list[Region] = []
        for name, values in tensors.items():
            self.regions.append(self._place(name, values, name in outputs))

    def __getitem__(self, name: str) -> Region:
        return next(region for region in self.regions if region.name == name)

    def region_of(self, slab: int) -> Region | None:
        """The tensor in a slab; None for a slab that holds none."""
        if 0 <= slab < len(self.regions):
            return self.regions[slab]
        return None

    def _place(self, name: str, values: torch.Tensor, is_output: bool) -> Region:
        """Copy a tensor into the middle of the next slab."""
        slab = len(self.regions)
        offset = slab * self.slab_bytes + self.slab_bytes // 2
        size = span_of(values) * values.element_size() + 2 * GUARD_BYTES
        raw = torch.frombuffer(self._map, dtype=torch.uint8, offset=offset, count=size)
        return Region(
            name=name,
            tensor=guarded(values, raw),
            raw=raw,
            start=raw.data_ptr() + GUARD_BYTES,
            owner=owners(values),
            is_output=is_output,
        )


def span_of(values: torch.Tensor) -> int:
    """Positions from a tensor's first element to its last, gaps included."""
    steps = [(n - 1) * stride for n, stride in zip(values.shape, values.stride())]
    return 1 + sum(steps)


def guarded(values: torch.Tensor, raw: torch.Tensor) -> torch.Tensor:
    """Copy `values`, strides and all, between two guard zones of `raw` (uint8, any device)."""
    raw.fill_(CANARY)
    kind = str(values.dtype).removeprefix("torch.")
    return inside(raw, kind, values.shape, values.stride()).copy_(values)


def inside(raw: torch.Tensor, dtype: str, shape: Sequence[int], strides: Sequence[int]) -> torch.Tensor:
    """The tensor that lies between the two guard zones of `raw`; `dtype` is torch's name, such as
    "float32"."""
    end = raw.numel() - GUARD_BYTES
    body = raw[GUARD_BYTES:end].view(getattr(torch, dtype))
    return body.as_strided(tuple(shape), tuple(strides), body.storage_offset())


def owners(values: torch.Tensor) -> np.ndarray:
    """For each position of the span: the element that lives there, or -1."""
    positions = torch.zeros(values.shape, dtype=torch.int64)
    for dim, (n, stride) in enumerate(zip(values.shape, values.stride())):
        along = [1] * values.dim()
        along[dim] = n
        positions += torch.arange(n).view(along) * stride
    owner = np.full(span_of(values), -1, dtype=np.int64)
    owner[positions.reshape(-1).numpy()] = np.arange(values.numel())
    return owner


def _reserve(slabs: int) -> tuple[mmap.mmap, int]:
    """Reserve addresses; where the system allows fewer, narrower slabs must do."""
    size = _SLAB_BYTES
    while True:
        try:
            return mmap.mmap(-1, slabs * size, flags=_RESERVED_ONLY), size
        except OSError:
            if size <= _SMALLEST_SLAB:
                raise
            size //= 2
