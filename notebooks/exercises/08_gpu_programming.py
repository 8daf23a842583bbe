"""Judges and hints of notebook 08, GPU programming. Addresses and warps are counted by aiinfra.gpu.simt."""

import random
from collections.abc import Callable
from typing import Any

import torch

from aiinfra.device import default_device
from aiinfra.environment import triton_interpreted
from aiinfra.lab.exercise import Unsolved, Wrong, close, exercise, require
from aiinfra.lab.verdict import is_stub
from aiinfra.gpu.occupancy import MAX_REGISTERS, occupancy
from aiinfra.gpu.simt import WARP, loop_cycles, sectors, warps


@exercise("08.order", hints=(
    "A warp is a bus: it leaves with its last passenger. Whom would you seat together?",
    "Requests of similar length belong together: then the longest of a warp is not much longer than the others. "
    "The last warp may be partly empty; which requests should that one hold?",
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
                f"with {n} requests, your list does not name each of 0 … {n - 1} exactly once: return indices, not lengths.")
        cost, best = (loop_cycles([trips[i] for i in ids])
                      for ids in (got, sorted(range(n), key=lambda i: -trips[i])))
        if cost > best:
            _explain_order(trips, cost, best)
        saved.append(loop_cycles(trips) / best)
    return f"Same requests, same kernel: {saved[0]:.1f} times fewer cycles than in order of arrival."


def _explain_order(trips: list[int], cost: float, best: float) -> None:
    ascending = sorted(trips)
    dealt = [trip for start in range(len(warps(trips))) for trip in ascending[start::len(warps(trips))]]
    seen = f"{cost:.0f} cycles for {len(trips)} requests; {best:.0f} are enough."
    if cost == loop_cycles(trips):
        raise Wrong(f"{seen} That is what the order of arrival costs.")
    if cost == loop_cycles(ascending):
        raise Wrong(f"{seen} Nearly: sorted, but the partly empty last warp holds the LONGEST requests, which then "
                    "shortens no other warp.")
    if cost >= 0.9 * loop_cycles(dealt):
        raise Wrong(f"{seen} Every warp got its share of the long ones. That balances a thread pool; here each warp "
                    "pays for its longest.")
    raise Wrong(seen)


@exercise("08.transpose", hints=(
    "Neighbouring lanes must touch neighbouring addresses twice: in x when they read, and in y when they write. "
    "A value may change hands in between: that is what shared memory is for.",
    "Reading, warp w takes row w of the tile and `lane` runs along it. Writing, warp w takes row w of the tile IN Y, "
    "and again `lane` runs along it. What are row and column of that tile's corner in y?",
    "read = (32·tile_row + warp)·cols + 32·tile_col + lane; for the write the tile's coordinates change places, and a "
    "row of y has `rows` values: (32·tile_col + warp)·rows + 32·tile_row + lane.",
))
def tile_transpose(addresses: Callable) -> str:
    for rows, cols, tile_row, tile_col in ((64, 96, 0, 0), (64, 96, 1, 2), (128, 32, 3, 0)):
        pairs = [[addresses(tile_row, tile_col, warp, lane, rows, cols) for lane in range(WARP)] for warp in range(WARP)]
        flat = [pair for row in pairs for pair in row]
        if any(is_stub(pair) for pair in flat):
            raise Unsolved
        require(all(len(pair) == 2 for pair in flat), "return two numbers: the offset to read and the offset to write.")
        inside = [(32 * tile_row + i, 32 * tile_col + j) for i in range(WARP) for j in range(WARP)]
        where = f"in tile ({tile_row}, {tile_col}) of a {rows} × {cols} matrix"
        _same_set([pair[0] for pair in flat], [i * cols + j for i, j in inside], f"{where}, the reads")
        _same_set([pair[1] for pair in flat], [j * rows + i for i, j in inside], f"{where}, the writes")
        for side, what in ((0, "read"), (1, "write")):
            most = max(sectors([4 * int(pair[side]) for pair in row]) for row in pairs)
            require(most == 4, f"the right values move, but a warp's {what} touches {most} sectors where 4 are enough: "
                               "its lanes walk down a column.")
    return "4 + 4 sectors a warp instead of 4 + 32: the same bytes, moved 4.5 times as cheaply."


def _same_set(got: list, want: list[int], what: str) -> None:
    got = [int(value) for value in got]
    missing = sorted(set(want) - set(got))
    stray = sorted(set(got) - set(want))
    require(not stray, f"{what}: offset {stray[:1]} does not belong to this tile.")
    require(not missing, f"{what}: {len(missing)} of 1,024 offsets are touched by no lane, for example {missing[:1]}.")


@exercise("08.leaky", hints=(
    "Start from add_kernel: one input less, one number more. What replaces the addition, and what protects the tail?",
    "Both sides are computed for every lane and one is kept: tl.where(condition, this, that). The mask `at < n` "
    "belongs on the load AND on the store.",
    "at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK); inside = at < n; x = tl.load(x_ptr + at, inside); "
    "tl.store(y_ptr + at, tl.where(x > 0, x, slope * x), inside)",
))
def leaky(kernel: Any) -> str:
    require(hasattr(kernel, "fn") and hasattr(kernel, "__getitem__"),
            f"this is a {type(kernel).__name__}, not a Triton kernel: put @triton.jit above `def`.")
    if is_stub(kernel.fn):
        raise Unsolved
    device = default_device()
    require(device.type == "cuda" or (triton_interpreted() and "Interpreted" in type(kernel).__name__),
            "this kernel was compiled for a GPU, and there is none: restart the notebook's kernel and run the first "
            "cell before all others.")
    for n, slope in ((1000, 0.1), (1024, 0.1), (1, 0.5), (129, 2.0)):
        _run_leaky(kernel, n, slope, device)
    return "No branch, no diverging warp, and not one byte written past the end."


def _run_leaky(kernel: Any, n: int, slope: float, device: torch.device, block: int = 128, guard: int = 256) -> None:
    random_x = torch.randn(n, generator=torch.Generator().manual_seed(n))
    x = torch.full((n + guard,), 7.0)
    x[:n] = random_x
    x, y = x.to(device), torch.full((n + guard,), float("nan"), device=device)
    kernel[(-(-n // block),)](x[:n], y[:n], n, slope, BLOCK=block)
    y = y.cpu()
    trampled = int((~y[n:].isnan()).sum())
    require(not trampled, f"with n = {n}, the kernel wrote past the end of y ({trampled} too many): somebody else's memory.")
    untouched = int(y[:n].isnan().sum())
    require(not untouched, f"with n = {n} and blocks of {block}, {untouched} values of y were never written.")
    want = torch.where(random_x > 0, random_x, slope * random_x)
    if n > 1 and torch.allclose(y[:n], torch.maximum(random_x, slope * random_x)) and slope > 1:
        raise Wrong(f"right for slopes below 1, but with slope = {slope} the larger of the two is the wrong one.")
    close(y[:n], want, f"y for n = {n}, slope = {slope}")


@exercise("08.budget", hints=(
    "65,536 registers are shared by all resident threads. Whole programs are resident, never parts of one.",
    "First round the warps up to whole programs. Then divide, and round the registers of a thread DOWN to a multiple of 8, "
    "because that is how they are handed out. One more limit: 255.",
    "programs = -(-warps // num_warps); per_thread = 65536 // (programs * num_warps * 32) // 8 * 8; return min(255, per_thread)",
))
def register_budget(budget: Callable) -> str:
    for warps_wanted, num_warps in ((16, 4), (24, 4), (20, 8), (48, 8), (8, 8), (30, 1), (50, 4)):
        got = budget(warps_wanted, num_warps)
        want = max(r for r in range(1, MAX_REGISTERS + 1) if occupancy(r, 0, num_warps).warps >= warps_wanted)
        require(got is not None, "your function returned None. Is a `return` missing?")
        if got is Ellipsis:
            raise Unsolved
        close(got, int(got), "the number of registers, which is whole")
        case = f"for {warps_wanted} warps in programs of {num_warps}"
        require(got <= MAX_REGISTERS, f"{case}: {got} registers, but the instruction format can name only 255.")
        if got > want:
            seen = occupancy(int(got), 0, num_warps)
            raise Wrong(f"{case}: with {got} registers a thread only {seen.warps} warps are resident ({seen.programs} programs).")
        require(got == want, f"{case}: {got} registers are safe, but {want} would do as well.")
    return "That is what a compiler flag like maxnreg, or one more warp per program, buys or costs."


@exercise("08.fuse", hints=(
    "Write down both times, unfused and fused, as launches · L + bytes / bandwidth. Which part of the difference grows with n?",
    "Fusing saves one launch, and the traffic of y: one write and one read of n values.",
    "Equal savings: L = 2 · n · itemsize / bandwidth. Solve for n.",
))
def break_even(size: Callable) -> str:
    for launch, bandwidth, itemsize in ((1.3e-6, 3.35e12, 4), (5e-6, 2.039e12, 2), (1e-6, 30e9, 4)):
        got, want = float(size(launch, bandwidth, itemsize)), launch * bandwidth / (2 * itemsize)
        known = {2: "y is written once AND read once: both are saved, so there are two passes in it.",
                 0.5: "x is read and z is written in either case: only y's two passes are saved.",
                 itemsize: "that is a number of bytes; asked for is a number of values."}
        for factor, message in known.items():
            require(abs(got / want - factor) > 1e-6, message)
        close(got, want, f"n for a launch of {launch * 1e6:g} µs and {bandwidth / 1e12:g} TB/s", rtol=1e-6)
    return f"On an H100 with the published 1.3 µs: {1.3e-6 * 3.35e12 / 8:,.0f} float32 values, 2.2 MB."
