"""With a GPU at hand: the compiled kernel at a large size, against the answer and against torch.

    guard x guard   guard z guard      on the GPU, outputs full of NaN
         kernel[grid](...)             compiled, not interpreted
    same answer?  guards untouched?  how long, and how long must it take at least?

The interpreter has found what can be found by watching; this run finds what only hardware does
(programs at the same time), and gives the only honest speed. Runs in the compiling worker.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from aiinfra.device import synchronize
from puzzles.judge.explain import explain
from puzzles.judge.launch import fresh_outputs, launch_arguments, same_bits
from puzzles.judge.memory import CANARY, GUARD_BYTES, guarded, span_of
from puzzles.judge.tolerance import error_ratio
from puzzles.judge.verdict import Finding, GpuRun
from puzzles.puzzle import Case, Puzzle
from puzzles.source import Piece
from puzzles.tensors import evaluate

_COPY_BYTES = 1 << 29
_MATMUL_SIZE = 4096
_OVERLAP = "accesses that overlap between programs; tl.dot's input_precision"


def run(puzzle: Puzzle, kernel: Any, files: Mapping[str, Piece], seed: int,
        grid: tuple[int, ...]) -> tuple[GpuRun | None, list[Finding]]:
    """Run and time `kernel` at the puzzle's large size; (None, []) where there is no GPU."""
    if not torch.cuda.is_available():
        return None, []
    device = torch.device("cuda")
    try:
        launched = launch(puzzle, puzzle.big, kernel, grid, seed, device)
        findings = list(launched.findings())
    except Exception as error:                  # whatever the reader's kernel raises is a finding
        found = explain(error, files)
        message = f"on the GPU: {found.message}"
        return None, [Finding("gpu", message, "this kernel at large sizes", line=found.line, code=found.code)]
    if findings:
        return None, findings
    return _timed(launched), []


@dataclass(frozen=True)
class Launched:
    """A kernel that ran once on a device, between guard zones: what it was given and what it left there."""

    puzzle: Puzzle
    case: Case
    device: torch.device
    inputs: Mapping[str, torch.Tensor]          # as they were
    tensors: Mapping[str, torch.Tensor]         # in the kernel's reach
    zones: Mapping[str, torch.Tensor]           # uint8: guard, tensor, guard
    again: Callable[[], None]                   # launch it once more

    def findings(self) -> Iterator[Finding]:
        """Where its outputs differ from the answer, which inputs it changed, which guard zones it broke."""
        with self.device:                       # the answer's own arange and zeros live there, too
            answers = self.puzzle.solve(self.inputs, self.case)
        for name, expected in answers.items():
            wrong = int((error_ratio(self.tensors[name], expected) > 1).sum())
            if wrong:
                elements = f"{wrong} of {expected.value.numel()} elements"
                yield self._finding(f"{elements} of {name} differ", _OVERLAP)
        for name, values in self.inputs.items():
            if name not in self.puzzle.outputs and not same_bits(self.tensors[name], values):
                yield self._finding(f"the input {name} was changed")
        for name, zone in self.zones.items():
            if not _is_intact(zone):
                yield self._finding(f"the guard zone around {name} was overwritten")

    def _finding(self, what: str, look_at: str = "") -> Finding:
        return Finding("gpu", f"on the GPU, {what}", look_at, case=str(self.case))


def launch(puzzle: Puzzle, case: Case, kernel: Any, grid: tuple[int, ...], seed: int,
           device: torch.device) -> Launched:
    """Launch once on fresh inputs, and wait for the end. Raises whatever the kernel raises."""
    inputs = _on(device, puzzle.draw(case, seed))
    outputs = _on(device, fresh_outputs(puzzle, case, inputs))
    zones, tensors = {}, {}
    for name, values in (inputs | outputs).items():
        zones[name] = _zone_for(values)
        tensors[name] = guarded(values, zones[name])
    arguments = launch_arguments(puzzle, case, tensors)

    def again() -> None:
        kernel[grid](**arguments)

    again()
    synchronize(device)
    return Launched(
        puzzle=puzzle,
        case=case,
        device=device,
        inputs=inputs,
        tensors=tensors,
        zones=zones,
        again=again,
    )


def _on(device: torch.device, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: values.to(device) for name, values in tensors.items()}


def _zone_for(values: torch.Tensor) -> torch.Tensor:
    """Room for a tensor and its two guard zones."""
    size = span_of(values) * values.element_size() + 2 * GUARD_BYTES
    return torch.empty(size, dtype=torch.uint8, device=values.device)


def _is_intact(zone: torch.Tensor) -> bool:
    before, after = zone[:GUARD_BYTES], zone[-GUARD_BYTES:]
    return bool(((before == CANARY) & (after == CANARY)).all())


def _timed(launched: Launched) -> GpuRun:
    """Best times of the kernel and of the reference as plain torch, and the least time possible."""
    puzzle, case = launched.puzzle, launched.case

    def reference() -> None:
        with launched.device:
            puzzle.reference(**launched.inputs, **puzzle.meta(case))

    return GpuRun(
        device=torch.cuda.get_device_name(launched.device),
        case=str(case),
        kernel_seconds=_best_seconds(launched.again),
        torch_seconds=_best_seconds(reference),
        least_seconds=_least_seconds(launched),
    )


def _least_seconds(launched: Launched) -> float:
    """The bytes that must move, or the FLOPs that must be done, at the best rate that this device shows now.
    """
    puzzle, sizes = launched.puzzle, launched.case.sizes
    moved = sum(values.numel() * values.element_size() for values in launched.inputs.values())
    for tensor in puzzle.outputs.values():
        moved += torch.Size(tensor.shape(sizes)).numel() * tensor.dtype.itemsize
    least = moved / _bandwidth(launched.device)
    flops = evaluate(puzzle.flops, sizes)
    if flops:
        dtypes = [values.dtype for values in launched.inputs.values()]
        floating = next(dtype for dtype in dtypes if dtype.is_floating_point)
        least = max(least, flops / _matmul_rate(launched.device, floating))
    return least


def _best_seconds(work: Callable[[], object]) -> float:
    from triton.testing import do_bench
    return do_bench(work, return_mode="min") / 1e3


def _bandwidth(device: torch.device) -> float:
    """Bytes a second that a copy moves, read and written."""
    source = torch.empty(_COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * _COPY_BYTES / _best_seconds(lambda: target.copy_(source))


def _matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of torch's own square matrix product in `dtype`."""
    a = torch.randn(_MATMUL_SIZE, _MATMUL_SIZE, device=device, dtype=dtype)
    return 2 * _MATMUL_SIZE ** 3 / _best_seconds(lambda: a @ a)
