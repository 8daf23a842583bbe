"""Judges and hints of notebook 08, GPU programming. Addresses and warps are counted by aiinfra.gpu.simt."""

import random
from collections.abc import Callable
from typing import Any

import torch

from aiinfra.device import default_device
from aiinfra.environment import triton_interpreted
from aiinfra.lab.exercise import Unsolved, Wrong, close, exercise, require
from aiinfra.lab.judging import answered
from aiinfra.lab.verdict import is_stub
from aiinfra.gpu.occupancy import MAX_REGISTERS, occupancy
from aiinfra.gpu.simt import WARP, loop_cycles, sectors, warps


@exercise("08.order", hints=(
    "A warp is a bus: it leaves with its last passenger. Whom would you seat together?",
    "Requests of similar length belong together: then the longest of a warp is not much longer than the "
    "others. The last warp may be partly empty; which requests should that one hold?",
    "Sort the INDICES, longest first: `sorted(range(len(trips)), key=lambda i: trips[i], reverse=True)`.",
))
def best_order(order: Callable) -> str:
    rng = random.Random(8)
    saved = []
    for n in (320, 1000, 40):
        trips = [1 + int(rng.paretovariate(1.2) * 3) for _ in range(n)]
        got = order(list(trips))
        require(got is not None, "your function returned None. Is a `return` missing?")
        got = [int(i) for i in got]
        require(sorted(got) == list(range(n)),
                f"with {n} requests, your list does not name each of 0 … {n - 1} exactly once: return "
                "indices, not lengths.")
        cost = loop_cycles([trips[i] for i in got])
        best = loop_cycles(sorted(trips, reverse=True))
        if cost > best:
            _explain_order(trips, cost, best)
        saved.append(loop_cycles(trips) / best)
    return f"Same requests, same kernel: {saved[0]:.1f} times fewer cycles than in order of arrival."


def _explain_order(trips: list[int], cost: float, best: float) -> None:
    ascending = sorted(trips)
    count = len(warps(trips))
    dealt = [trip for start in range(count) for trip in ascending[start::count]]
    seen = f"{cost:.0f} cycles for {len(trips)} requests; {best:.0f} are enough."
    if cost == loop_cycles(trips):
        raise Wrong(f"{seen} That is what the order of arrival costs.")
    if cost == loop_cycles(ascending):
        raise Wrong(f"{seen} Nearly: sorted, but the partly empty last warp holds the LONGEST requests, "
                    "which then shortens no other warp.")
    if cost >= 0.9 * loop_cycles(dealt):
        raise Wrong(f"{seen} Every warp got its share of the long ones. That balances a thread pool; here "
                    "each warp pays for its longest.")
    raise Wrong(seen)


@exercise("08.transpose", hints=(
    "Neighbouring lanes must touch neighbouring addresses twice: in x when they read, and in y when they "
    "write. A value may change hands in between: that is what shared memory is for.",
    "Reading, warp w takes row w of the tile and `lane` runs along it. Writing, warp w takes row w of the "
    "tile IN Y, and again `lane` runs along it. What are row and column of that tile's corner in y?",
    "read = (32·tile_row + warp)·cols + 32·tile_col + lane; for the write the tile's coordinates change "
    "places, and a row of y has `rows` values: (32·tile_col + warp)·rows + 32·tile_row + lane.",
))
def tile_transpose(addresses: Callable) -> str:
    cases = (
        (64, 96, 0, 0),
        (64, 96, 1, 2),
        (128, 32, 3, 0),
    )
    for rows, cols, tile_row, tile_col in cases:
        reads, writes = [], []                               # [warp][lane]
        for warp in range(WARP):
            pairs = [addresses(tile_row, tile_col, warp, lane, rows, cols) for lane in range(WARP)]
            if any(map(is_stub, pairs)):
                raise Unsolved
            require(all(len(pair) == 2 for pair in pairs),
                    "return two numbers: the offset to read and the offset to write.")
            reads.append([int(read) for read, _ in pairs])
            writes.append([int(write) for _, write in pairs])
        down = range(32 * tile_row, 32 * tile_row + WARP)
        across = range(32 * tile_col, 32 * tile_col + WARP)
        where = f"in tile ({tile_row}, {tile_col}) of a {rows} × {cols} matrix"
        _same_set(reads, {i * cols + j for i in down for j in across}, f"{where}, the reads")
        _same_set(writes, {j * rows + i for i in down for j in across}, f"{where}, the writes")
        _require_rows(reads, "read")
        _require_rows(writes, "write")
    return "4 + 4 sectors a warp instead of 4 + 32: the same bytes, moved 4.5 times as cheaply."


def _require_rows(offsets: list[list[int]], what: str) -> None:
    """Raise Wrong unless each warp touches as few sectors as it can."""
    most = max(sectors([4 * offset for offset in warp]) for warp in offsets)
    require(most == 4, f"the right values move, but a warp's {what} touches {most} sectors where 4 are "
                       "enough: its "
            "lanes walk down a column.")


def _same_set(got: list[list[int]], want: set[int], what: str) -> None:
    touched = {offset for warp in got for offset in warp}
    missing = sorted(want - touched)
    stray = sorted(touched - want)
    require(not stray, f"{what}: offset {stray[:1]} does not belong to this tile.")
    require(not missing,
            f"{what}: {len(missing)} of 1,024 offsets are touched by no lane, for example {missing[:1]}.")


@exercise("08.leaky", hints=(
    "Start from add_kernel: one input less, one number more. What replaces the addition, and what protects "
    "the tail?",
    "Both sides are computed for every lane and one is kept: tl.where(condition, this, that). The mask `at < "
    "n` belongs on the load AND on the store.",
    "at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK); inside = at < n; x = tl.load(x_ptr + at, inside); "
    "tl.store(y_ptr + at, tl.where(x > 0, x, slope * x), inside)",
))
def leaky(kernel: Any) -> str:
    compiled = hasattr(kernel, "fn") and hasattr(kernel, "__getitem__")
    require(compiled, f"this is a {type(kernel).__name__}, not a Triton kernel: put @triton.jit above `def`.")
    if is_stub(kernel.fn):
        raise Unsolved
    device = default_device()
    interpreted = triton_interpreted() and "Interpreted" in type(kernel).__name__
    require(device.type == "cuda" or interpreted,
            "this kernel was compiled for a GPU, and there is none: restart the notebook's kernel and run "
            "the first cell before all others.")
    cases = (
        (1000, 0.1),
        (1024, 0.1),
        (1, 0.5),
        (129, 2.0),
    )
    for n, slope in cases:
        _run_leaky(kernel, n, slope, device)
    return "No branch, no diverging warp, and not one byte written past the end."


def _run_leaky(kernel: Any, n: int, slope: float, device: torch.device) -> None:
    block, guard = 128, 256
    values = torch.randn(n, generator=torch.Generator().manual_seed(n))
    room = torch.full((n + guard,), 7.0)
    room[:n] = values
    x = room.to(device)
    y = torch.full((n + guard,), float("nan"), device=device)
    programs = -(-n // block)
    kernel[(programs,)](x[:n], y[:n], n, slope, BLOCK=block)
    y = y.cpu()
    written = ~y.isnan()
    trampled = int(written[n:].sum())
    require(not trampled,
            f"with n = {n}, the kernel wrote past the end of y ({trampled} too many): somebody else's "
            "memory.")
    untouched = n - int(written[:n].sum())
    require(not untouched, f"with n = {n} and blocks of {block}, {untouched} values of y were never written.")
    larger = torch.maximum(values, slope * values)
    if n > 1 and slope > 1 and torch.allclose(y[:n], larger):
        raise Wrong(f"right for slopes below 1, but with slope = {slope} the larger of the two is the wrong "
                    "one.")
    want = torch.where(values > 0, values, slope * values)
    close(y[:n], want, f"y for n = {n}, slope = {slope}")


@exercise("08.budget", hints=(
    "65,536 registers are shared by all resident threads. Whole programs are resident, never parts of one.",
    "First round the warps up to whole programs. Then divide, and round the registers of a thread DOWN to a "
    "multiple of 8, because that is how they are handed out. One more limit: 255.",
    "programs = -(-warps // num_warps); per_thread = 65536 // (programs * num_warps * 32) // 8 * 8; return "
    "min(255, per_thread)",
))
def register_budget(budget: Callable) -> str:
    cases = (
        (16, 4),
        (24, 4),
        (20, 8),
        (48, 8),
        (8, 8),
        (30, 1),
        (50, 4),
    )
    for warps_wanted, num_warps in cases:
        got = budget(warps_wanted, num_warps)
        want = _most_registers(warps_wanted, num_warps)
        require(got is not None, "your function returned None. Is a `return` missing?")
        close(answered(got), int(got), "the number of registers, which is whole")
        case = f"for {warps_wanted} warps in programs of {num_warps}"
        require(got <= MAX_REGISTERS, f"{case}: {got} registers, but the instruction format can name only "
                                      "255.")
        if got > want:
            seen = occupancy(int(got), 0, num_warps)
            raise Wrong(f"{case}: with {got} registers a thread only {seen.warps} warps are resident "
                        f"({seen.programs} "
                        "programs).")
        require(got == want, f"{case}: {got} registers are safe, but {want} would do as well.")
    return "That is what a compiler flag like maxnreg, or one more warp per program, buys or costs."


def _most_registers(warps_wanted: int, num_warps: int) -> int:
    """By trying all: the most registers with which so many warps are resident."""
    for registers in range(MAX_REGISTERS, 0, -1):
        if occupancy(registers, 0, num_warps).warps >= warps_wanted:
            return registers
    raise ValueError(f"{warps_wanted} warps are never resident.")


@exercise("08.fuse", hints=(
    "Write down both times, unfused and fused, as launches · L + bytes / bandwidth. Which part of the "
    "difference grows with n?",
    "Fusing saves one launch, and the traffic of y: one write and one read of n values.",
    "Equal savings: L = 2 · n · itemsize / bandwidth. Solve for n.",
))
def break_even(size: Callable) -> str:
    cases = (
        (1.3e-6, 3.35e12, 4),
        (5e-6, 2.039e12, 2),
        (1e-6, 30e9, 4),
    )
    for launch, bandwidth, itemsize in cases:
        got = float(size(launch, bandwidth, itemsize))
        want = launch * bandwidth / (2 * itemsize)
        known = {
            2: "y is written once AND read once: both are saved, so there are two passes in it.",
            0.5: "x is read and z is written in either case: only y's two passes are saved.",
            itemsize: "that is a number of bytes; asked for is a number of values.",
        }
        for factor, message in known.items():
            require(abs(got / want - factor) > 1e-6, message)
        close(got, want, f"n for a launch of {launch * 1e6:g} µs and {bandwidth / 1e12:g} TB/s", rtol=1e-6)
    values = 1.3e-6 * 3.35e12 / 8
    return f"On an H100 with the published 1.3 µs: {values:,.0f} float32 values, 2.2 MB."
