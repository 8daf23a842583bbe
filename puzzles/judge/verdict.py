"""What comes back from the judge: one object, plain data, safe to send between processes.

`passed` is the answer; `findings` say what was wrong, the likeliest cause first; `traffic`,
`compiled` and `gpu` are the figures. How it is shown is none of its business: see puzzles/render.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

# Likeliest cause first: an access out of bounds explains a wrong value, not the other way round.
KINDS = (
    "bad_input",
    "reaches_out",
    "not_solved",
    "time_limit",
    "memory_limit",
    "crash",
    "error",
    "out_of_bounds_read",
    "out_of_bounds_write",
    "race",
    "input_changed",
    "extra_write",
    "not_written",
    "masked_lanes",
    "not_finite",
    "wrong_value",
    "wrong_program",
    "unused_block",
    "too_many_programs",
    "traffic",
    "does_not_compile",
    "does_not_fit",
    "gpu",
)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: what, where in the reader's kernel, and what to look at."""

    kind: str                               # one of KINDS
    message: str
    look_at: str = ""
    line: int | None = None                 # in the reader's cell or file
    code: str = ""                          # the text of that line
    program: tuple[int, ...] | None = None  # program ids
    case: str = ""

    @property
    def title(self) -> str:
        """The kind, in words."""
        return self.kind.replace("_", " ")

    def __str__(self) -> str:
        lines = [f"{self.title}: {self.message}"]
        if self.line:
            lines.append(f"    line {self.line}: {self.code}")
        if self.look_at:
            lines.append(f"    Look at: {self.look_at}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Traffic:
    """Elements of one tensor that a launch moved: `loaded` and `stored` count every time, the others once."""

    tensor: str
    loaded: int
    distinct: int
    stored: int
    written: int                            # different elements stored; of a right answer, all that it must
    itemsize: int
    budget: int | None = None               # most loads
    store_budget: int | None = None         # most stores; None where atomics meet

    @property
    def loads_too_much(self) -> bool:
        """More loads than the puzzle allows."""
        return self.budget is not None and self.loaded > self.budget

    @property
    def stores_too_much(self) -> bool:
        """Many elements stored more than once."""
        return self.store_budget is not None and self.stored > self.store_budget

    @property
    def times(self) -> float:
        """How often each element was loaded, on average, of those loaded at all."""
        if not self.distinct:
            return 0.0
        return self.loaded / self.distinct


@dataclass(frozen=True)
class ResourceUsage:
    """What a program of the kernel takes on one generation of GPUs, as its compiler says."""

    target: str                             # "sm_90"
    registers: int
    shared_bytes: int
    spill_bytes: int


@dataclass(frozen=True)
class GpuRun:
    """One timed launch on a real GPU, best of several."""

    device: str
    case: str
    kernel_seconds: float
    torch_seconds: float
    least_seconds: float                    # by the bandwidth and matmul rate measured in the same run

    @property
    def roofline(self) -> float:
        """Achieved share of what the device can do, at most 1: a kernel that is faster than the device has
        shown itself to be (its outputs may still lie in a cache) has shown what it can do.
        """
        return min(self.least_seconds / self.kernel_seconds, 1.0)


@dataclass(frozen=True)
class HeatMap:
    """Error over allowed error, for one output seen as a matrix; 1.0 and more is wrong."""

    tensor: str
    shape: tuple[int, ...]
    rows: tuple[tuple[float, ...], ...]     # scaled down: each cell is the worst of its tile


@dataclass(frozen=True)
class Verdict:
    """The judge's answer. `status` is "passed", "failed" or "not solved yet"."""

    puzzle: str
    status: str
    findings: tuple[Finding, ...] = ()
    cases: tuple[tuple[str, bool], ...] = ()
    traffic: tuple[Traffic, ...] = ()
    compiled: tuple[ResourceUsage, ...] = ()
    gpu: GpuRun | None = None
    heat: HeatMap | None = None
    seed: int = 0
    printed: str = ""                       # what the kernel printed

    @property
    def passed(self) -> bool:
        """True if the kernel is right."""
        return self.status == "passed"

    @property
    def traffic_score(self) -> float:
        """Bytes moved over the least: every element once, however often it moved. 1.0 is best; 0.0 if
        unknown.
        """
        moved = sum((t.loaded + t.stored) * t.itemsize for t in self.traffic)
        least = sum((t.distinct + t.written) * t.itemsize for t in self.traffic)
        if not least:
            return 0.0
        return moved / least

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of its findings, likeliest cause first."""
        return tuple(finding.kind for finding in self.findings)


def rejected(puzzle: str, findings: Sequence[Finding], **figures) -> Verdict:
    """A failed (or not yet solved) verdict with its findings in order of cause; `figures` are Verdict's
    other fields.
    """
    ordered = sorted(findings, key=lambda finding: KINDS.index(finding.kind))
    status = "failed"
    if ordered[0].kind == "not_solved":
        status = "not solved yet"
    return Verdict(puzzle, status, tuple(ordered), **figures)
