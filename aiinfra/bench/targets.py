"""What a GPU should reach: floor and goal of each measurement, and what paper says of it beforehand.

    G1   8B, one request    bytes of weights / (bytes / (bandwidth x 0.92) + 204 small kernels x 1.7 µs)
                            H100 5.53 + 0.35 ms: 0.87 of what reading gives; the floor is 0.80

A model on paper that a measurement contradicts has taught more than one that nobody wrote down. `expected`
are the ends of a range, as a ratio (G12 and G13: a share), on an H100 and an H200; on_paper.py has the
formulas. Notebook 14.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiinfra.bench.on_paper import (
    DENSE_PASSES, READ, decode_share, graphs_gain, hstu_gain, masked_seconds, small_kernels, static_seconds,
    trace_seconds, training_share)
from aiinfra.errors import plural


@dataclass(frozen=True)
class GpuTarget:
    """One measurement. `less`: it is a share to be small. `model`: how the range follows, in a sentence."""

    name: str
    floor: float
    goal: float
    expected: dict[str, tuple[float, float]]
    model: str
    less: bool = False

    def met(self, value: float | None) -> str:
        """In a word: what a measured ratio or share is beside floor and goal."""
        if value is None:
            return "–"
        floor, goal = (value <= self.floor, value <= self.goal) if self.less else (
            value >= self.floor, value >= self.goal)
        if goal:
            return "goal"
        return "floor" if floor else "missed"

    def expected_on(self, device: str) -> str:
        """The range for a GPU of this name; "–" where nobody has worked it out."""
        for kind, (low, high) in self.expected.items():
            if kind in device:
                return f"{low:.2g} to {high:.2g}"
        return "–"


def _between(formula: Callable[[float], tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """The range by GPU, of a formula of its bandwidth."""
    return {kind: formula(read) for kind, read in READ.items()}


def _decode(weight_bytes: float, layers: int) -> dict[str, tuple[float, float]]:
    shares = {kind: decode_share(weight_bytes, layers, read) for kind, read in READ.items()}
    return {kind: (share - 0.03, share + 0.03) for kind, share in shares.items()}


def _graphs(read: float) -> tuple[float, float]:
    return tuple(graphs_gain(0.269e9, 30, read, launch) for launch in (10e-6, 20e-6))


def _static(read: float) -> tuple[float, float]:
    return tuple(static_seconds(read, share) / trace_seconds(read) for share in (0.8, 0.4))


def _masked(read: float) -> tuple[float, float]:
    return tuple(masked_seconds(read, share) / trace_seconds(read) for share in (0.35, 0.1))


def _hstu(read: float) -> tuple[float, float]:
    return hstu_gain(read, waits=False), hstu_gain(read, waits=True)


def _training(read: float) -> tuple[float, float]:
    return tuple(training_share(read, share) for share in (0.55, 0.7))


def _same(low: float, high: float) -> dict[str, tuple[float, float]]:
    return {kind: (low, high) for kind in READ}


def _target(name: str, floor: float, goal: float, expected: dict[str, tuple[float, float]], model: str,
            less: bool = False) -> GpuTarget:
    return GpuTarget(name=name, floor=floor, goal=goal, expected=expected, model=model, less=less)


TARGETS = {
    "G1": _target("decode, 1 request, 8B: share of read bandwidth", 0.80, 0.90, _decode(15.0e9, 32),
                 f"15.0 GB at 0.92 of the bandwidth, and {small_kernels(32)} small kernels of 1.7 µs"),
    "G2": _target("the same, 1B", 0.60, 0.80, _decode(2.47e9, 16),
                 f"2.47 GB at 0.92 of the bandwidth, and {small_kernels(16)} small kernels of 1.7 µs"),
    "G3": _target("135M: CUDA graphs ÷ one by one", 4.0, 6.0, _between(_graphs),
                 f"the CPU asks for 121 products of 7 µs and {small_kernels(30)} kernels of 10 to 20; a "
                 "graph needs 0.7 ms, which is the CPU's share, too"),
    "G4": _target("256 requests ÷ transformers' static batches", 4.0, 8.0, _between(_static),
                 "three times the keys, because all are padded to the longest, and each is moved three "
                 "times: a longer cache is a new one"),
    "G5": _target("256 requests ÷ transformers' generate_batch", 1.3, 2.0, _between(_masked),
                 "without flash-attn: keys are moved seven times, and all queries meet all keys behind a "
                 "mask; with it, 1.3 to 2"),
    "G6": _target("flash attention forward ÷ SDPA's flash (FA2)", 1.0, 1.2, _same(1.0, 1.4),
                 "FA2 has mma.sync and reaches 0.4 of the units; wgmma with 3 stages 0.45 to 0.55"),
    "G7": _target("paged decode attention: share of read bandwidth", 0.75, 0.90, _same(0.85, 0.95),
                 "5 programs an SM, 16 KB each; 1,536 on 660 places: a third of the last wave"),
    "G8": _target("RMSNorm with residual ÷ a copy of the same bytes", 0.90, 0.95, _same(0.93, 1.0),
                 "4 passes of 16-byte accesses, 8 programs an SM, the weight loaded before the reduction"),
    "G9": _target("int4 at batch 1 ÷ cuBLAS in bfloat16", 2.5, 3.5, {"H100": (2.6, 2.9), "H200": (2.0, 2.2)},
                 "5.3 instructions a weight, 2.2 on the half-rate integer pipe: 24 weights a clock and SM"),
    "G10": _target("HSTU forward and backward ÷ dense PyTorch", 5.0, 15.0, _between(_hstu),
                  f"ours: 4 kernels of 50 instructions a pair, 11 products; dense: {DENSE_PASSES} passes "
                  "over B·H·N² scores, and a table's gradient that waits for a warp to add ten million"),
    "G11": _target("training, 1B: share of the units' rate", 0.42, 0.50, _between(_training),
                  "products at 0.55 to 0.7, attention at 0.5 and 0.35; a chunk of 256 logits adds to the "
                  "last matrix's whole gradient: 64 times 3 GB, a fifth of the step"),
    "G12": _target("copies that computation does not hide", 0.20, 0.05, _same(0.02, 0.10),
                  "three stages: only the first copy has nothing beside it", less=True),
    "G13": _target("GPU idle between decode steps, 64 requests", 0.03, 0.01, _same(0.002, 0.02),
                  "the next step is asked for while this one runs; the CPU needs 0.7 ms, the GPU 2 to 4",
                  less=True),
}


def measured(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Of each target its ratio in a report's rows, the least of several; or its share, which a row has in per
    cent. None where nothing was measured."""
    found: dict[str, float | None] = dict.fromkeys(TARGETS)
    for row in rows:
        key, value = row["target"], row["ratio"]
        if key in found and TARGETS[key].less and row["ours"] is not None:
            value = row["ours"] / 100
        if key in found and value is not None:
            found[key] = value if found[key] is None else min(value, found[key])
    return found


def summary(found: dict[str, float | None], device: str) -> str:
    """A line a target: measured, floor and goal, expected."""
    lines = [f"{'':4s} {'measured':>8s}  {'floor':>6s} {'goal':>6s}  {'expected':>14s}  verdict"]
    for key, target in TARGETS.items():
        value = found.get(key)
        said = "–" if value is None else f"{value:.3g}"
        bounds = f"{target.floor:6g} {target.goal:6g}  {target.expected_on(device):>14s}"
        lines.append(f"{key:4s} {said:>8s}  {bounds}  {target.met(value):7s} {target.name}")
    count = sum(value is not None for value in found.values())
    lines.append(f"{plural(count, 'target')} measured of {len(TARGETS)}.")
    return "\n".join(lines)
