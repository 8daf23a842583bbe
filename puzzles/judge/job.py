"""What travels between the notebook and the judge's process: a Job one way, a Reply the other.

    notebook: process.py ──Job──► service.py, the judge's process
                         ◄─Reply─

Both are plain data. A stage that ends with findings has found the kernel wrong; what it had until then
comes along.
"""

from dataclasses import dataclass
from typing import Any, Literal

from puzzles.judge.verdict import Finding, ResourceUsage
from puzzles.puzzle import Puzzle
from puzzles.source import KernelText

FOLDER_PREFIX = "judge-"                  # of the folder for the files of a judge's process
Stage = Literal["interpret", "compile", "gpu"]


@dataclass(frozen=True)
class Job:
    """One kernel to judge, for one puzzle. `seconds` limits each stage."""

    puzzle: Puzzle | str                     # a name, or a Puzzle that is in no sheet
    text: KernelText
    seconds: float = 20.0
    seed: int = 0
    grids: tuple[tuple[int, ...], ...] | None = None       # None: the kernel's text defines grid_of_<name>

    @property
    def name(self) -> str:
        """The puzzle's name."""
        if isinstance(self.puzzle, Puzzle):
            return self.puzzle.name
        return self.puzzle


@dataclass(frozen=True)
class Reply:
    """What a stage says: its result (a Verdict, a list of ResourceUsage, a GpuRun or None), or what it
    found wrong; and what the learner's process printed.
    """

    result: Any = None
    findings: tuple[Finding, ...] = ()
    printed: str = ""


class Rejected(Exception):
    """A stage found the kernel wrong. `compiled` holds the GPUs for which it had compiled before."""

    def __init__(self, findings: tuple[Finding, ...], compiled: tuple[ResourceUsage, ...] = ()):
        super().__init__(*(finding.message for finding in findings))
        self.findings = findings
        self.compiled = compiled


def out_of_time(seconds: float, line: int | None, code: str) -> Finding:
    """The finding for a kernel that was stopped, at this line."""
    return Finding(
        kind="time_limit",
        message=f"the kernel was still running after {seconds:g} s and was stopped",
        look_at="the loop around this line: does it always end?",
        line=line,
        code=code,
    )


def out_of_memory(most: int, line: int | None, code: str) -> Finding:
    """The finding for a kernel that asked for more memory than it gets."""
    return Finding(
        kind="memory_limit",
        message=f"the kernel needs more memory than {most >> 20:,} MiB",
        look_at="the shapes of the blocks at this line: a block of 1,024 x 1,024 float32 takes 4 MiB",
        line=line,
        code=code,
    )
