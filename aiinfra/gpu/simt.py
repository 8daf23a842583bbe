"""What 32 threads pay for sharing one instruction: branches that differ, addresses that scatter.

    lanes      0  1  2  3 … 31        one warp, one program counter
    if slow:   .  .  X  . …  .        all 32 wait while lane 2 takes the branch
    load x[i]  ▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓        neighbours:   4 sectors of 32 bytes
    load x[8i] ▓      ▓      ▓ …      far apart:   32 sectors for the same 128 useful bytes

A counting model, not a simulator: it says what the hardware must do at least, and knows no caches
between requests. Threads are numbered as on the chip, so thread i is lane i % 32 of warp i // 32.
Sizes: CUDA C++ Best Practices Guide, "Coalesced Access to Global Memory". Notebook 08.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

WARP = 32          # threads that share one instruction
SECTOR = 32        # bytes: what memory moves at least
LINE = 128         # bytes: what a cache entry names, four sectors
BANKS = 32         # columns of shared memory, each 4 bytes wide, each serving one row at a time


def warps(values: Sequence) -> list[Sequence]:
    """The values of consecutive threads, cut into warps; the last may be partly empty."""
    return [values[start:start + WARP] for start in range(0, len(values), WARP)]


def branch_cycles(paths: Sequence[int], cycles: Sequence[float]) -> float:
    """Warp-cycles for threads that take branch paths[i], a path p costing cycles[p].

    A warp takes every path that any of its threads takes, one after another. Raises IndexError
    for a path without a cost.
    """
    return sum(cycles[path] for warp in warps(paths) for path in set(warp))


def loop_cycles(trips: Sequence[int], cycles: float = 1.0) -> float:
    """Warp-cycles for threads that go round a loop trips[i] times: a warp leaves with its last thread."""
    return sum(max(warp) * cycles for warp in warps(trips))


def lane_cycles(work: Iterable[float]) -> float:
    """Warp-cycles if no lane ever waited for another: the least that this work can cost."""
    return sum(work) / WARP


def sectors(addresses: Iterable[int], width: int = 4, size: int = SECTOR) -> int:
    """Pieces of `size` bytes that one request touches: a warp's `width` bytes at each byte address."""
    touched = set()
    for at in addresses:
        first, last = at // size, (at + width - 1) // size
        touched.update(range(first, last + 1))
    return len(touched)


def used_share(addresses: Sequence[int], width: int = 4) -> float:
    """Bytes asked for, each counted once, as a share of the bytes moved; 1.0 is perfectly coalesced."""
    asked = {byte for at in addresses for byte in range(at, at + width)}
    if not asked:
        return 1.0
    moved = SECTOR * sectors(addresses, width)
    return len(asked) / moved


def bank_passes(addresses: Iterable[int]) -> int:
    """Passes that shared memory needs for one 4-byte request at these byte addresses.

    Lanes that want the same word share it; different words of one bank wait for each other.
    """
    words = {at // 4 for at in addresses}
    rows_of_bank = Counter(word % BANKS for word in words)
    return max(rows_of_bank.values(), default=0)
