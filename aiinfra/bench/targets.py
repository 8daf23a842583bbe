"""What a GPU should reach: floor and goal of each measurement, and what paper says of it beforehand.

    G1   8B, one request    bytes of weights / (bytes / (bandwidth x 0.92) + 268 small kernels x 1.7 µs)
                            H100 4.85 + 0.46 ms: 0.84 of what reading gives; the floor is 0.80

A model on paper that a measurement contradicts has taught more than one that nobody wrote down. `expected`
are the ends of a range, as a ratio (G12 and G13: a share), on an H100 and an H200. Notebook 14.
"""

from dataclasses import dataclass

from aiinfra.errors import plural

READ = {"H100": 2.95e12, "H200": 4.3e12}      # bytes/s that reading gives: about 0.9 of the sheet
_GEMV_SHARE = 0.92                            # of it, that a product with one row reaches
_SMALL_KERNEL = 1.7e-6                        # seconds of a kernel that moves next to nothing, in a graph
_SMALL_A_LAYER, _SMALL_A_STEP = 8, 12         # norms, rope, cache, attention and its merge, swiglu, sum


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
                return f"{low:.2f} to {high:.2f}"
        return "–"


def decode_share(weight_bytes: float, layers: int, bandwidth: float) -> float:
    """Bytes/s of weights that decoding one request reads, as a share of `bandwidth`."""
    reading = weight_bytes / (bandwidth * _GEMV_SHARE)
    asking = (_SMALL_A_LAYER * layers + _SMALL_A_STEP) * _SMALL_KERNEL
    return weight_bytes / (reading + asking) / bandwidth


def _decode(weight_bytes: float, layers: int) -> dict[str, tuple[float, float]]:
    shares = {kind: decode_share(weight_bytes, layers, read) for kind, read in READ.items()}
    return {kind: (share - 0.03, share + 0.03) for kind, share in shares.items()}


def _same(low: float, high: float) -> dict[str, tuple[float, float]]:
    return {kind: (low, high) for kind in READ}


def _target(name: str, floor: float, goal: float, expected: dict[str, tuple[float, float]], model: str,
            less: bool = False) -> GpuTarget:
    return GpuTarget(name=name, floor=floor, goal=goal, expected=expected, model=model, less=less)


TARGETS = {
    "G1": _target("decode, 1 request, 8B: share of read bandwidth", 0.80, 0.90, _decode(15.0e9, 32),
                 "15.0 GB at 0.92 of the bandwidth, and 268 small kernels of 1.7 µs"),
    "G2": _target("the same, 1B", 0.60, 0.80, _decode(2.47e9, 16),
                 "2.47 GB at 0.92 of the bandwidth, and 140 small kernels of 1.7 µs"),
    "G3": _target("135M: CUDA graphs ÷ one by one", 4.0, 6.0, _same(5.0, 8.0),
                 "about 370 calls of 12 µs, beside 0.27 GB and 370 kernels of 1.7 µs: 4.4 ms ÷ 0.7 ms"),
    "G4": _target("256 requests ÷ transformers' static batches", 4.0, 8.0, _same(5.0, 10.0),
                 "a static batch of mixed lengths wastes half its rows, and its steps are bound by the CPU"),
    "G5": _target("256 requests ÷ transformers' generate_batch", 1.3, 2.0, _same(1.3, 3.0),
                 "the same rows, but its step is launched kernel by kernel"),
    "G6": _target("flash attention forward ÷ SDPA's flash (FA2)", 1.0, 1.2, _same(1.0, 1.4),
                 "FA2 has mma.sync and reaches 0.4 of the units; wgmma with 3 stages 0.45 to 0.55"),
    "G7": _target("paged decode attention: share of read bandwidth", 0.75, 0.90, _same(0.85, 0.95),
                 "5 programs an SM, 16 KB each; 1,536 on 660 places: a third of the last wave"),
    "G8": _target("RMSNorm with residual ÷ a copy of the same bytes", 0.90, 0.95, _same(0.93, 1.0),
                 "4 passes of 16-byte accesses, 8 programs an SM, the weight loaded before the reduction"),
    "G9": _target("int4 at batch 1 ÷ cuBLAS in bfloat16", 2.5, 3.5, {"H100": (2.6, 2.9), "H200": (2.0, 2.2)},
                 "5.3 instructions a weight, 2.2 on the half-rate integer pipe: 24 weights a clock and SM"),
    "G10": _target("HSTU forward and backward ÷ dense PyTorch", 5.0, 15.0, _same(6.0, 20.0),
                  "9 products in tiles; there, B·H·N² scores go to memory 20 times, and an index_put"),
    "G11": _target("training, 1B: share of the units' rate", 0.42, 0.50, _same(0.40, 0.52),
                  "products at 0.65, attention at 0.45, a tenth of the time for norms, loss, optimizer"),
    "G12": _target("copies that computation does not hide", 0.20, 0.05, _same(0.02, 0.10),
                  "three stages: only the first copy has nothing beside it", less=True),
    "G13": _target("GPU idle between decode steps, 64 requests", 0.03, 0.01, _same(0.002, 0.02),
                  "the next step is asked for while this one runs; the CPU needs 0.7 ms, the GPU 2 to 4",
                  less=True),
}


def summary(measured: dict[str, float | None], device: str) -> str:
    """A line a target: measured, floor and goal, expected."""
    lines = [f"{'':4s} {'measured':>8s}  {'floor':>6s} {'goal':>6s}  {'expected':>14s}  verdict"]
    for key, target in TARGETS.items():
        value = measured.get(key)
        said = "–" if value is None else f"{value:.3g}"
        bounds = f"{target.floor:6g} {target.goal:6g}  {target.expected_on(device):>14s}"
        lines.append(f"{key:4s} {said:>8s}  {bounds}  {target.met(value):7s} {target.name}")
    found = sum(value is not None for value in measured.values())
    lines.append(f"{plural(found, 'target')} measured of {len(TARGETS)}.")
    return "\n".join(lines)
