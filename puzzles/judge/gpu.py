"""With a GPU at hand: the compiled kernel at a large size, against the answer and against torch.

    guard x guard   guard z guard      on the GPU, outputs full of NaN
         kernel[grid](...)             compiled, not interpreted
    same answer?  guards untouched?  how long, and how long must it take at least?

The interpreter has found what can be found by watching; this run finds what only hardware does
(programs at the same time), and gives the only honest speed. Runs in the compiling worker.
"""

from collections.abc import Callable
from typing import Any

import torch

from aiinfra.device import synchronize
from puzzles.judge.explain import explain
from puzzles.judge.interpret import fresh_outputs, launch_arguments, same_bits
from puzzles.judge.memory import CANARY, GUARD_BYTES, guarded, span_of
from puzzles.judge.tolerance import error_ratio
from puzzles.judge.verdict import Finding, GpuRun
from puzzles.puzzle import Case, Puzzle, evaluate
from puzzles.source import Piece

_COPY_BYTES = 1 << 29
_MATMUL_SIZE = 4096


def run(puzzle: Puzzle, kernel: Any, files: dict[str, Piece], seed: int,
        grid: tuple[int, ...]) -> tuple[GpuRun | None, list[Finding]]:
    """Run and time `kernel` at the puzzle's large size; (None, []) where there is no GPU."""
    if not torch.cuda.is_available():
        return None, []
    try:
        findings, launch, inputs = agreement(puzzle, puzzle.big, kernel, grid, seed, torch.device("cuda"))
    except Exception as error:                  # whatever the reader's kernel raises is a finding
        found = explain(error, files)
        return None, [
            Finding("gpu", f"on the GPU: {found.message}", "this kernel at large sizes", found.line, found.code)
        ]
    return (None, findings) if findings else (_timed(puzzle, inputs, launch, torch.device("cuda")), [])


def agreement(puzzle: Puzzle, case: Case, kernel: Any, grid: tuple[int, ...], seed: int,
              device: torch.device) -> tuple[list[Finding], Callable[[], None], dict[str, torch.Tensor]]:
    """Launch once and compare. Returns the findings, the launch to repeat, and the inputs on `device`."""
    inputs = {name: t.to(device) for name, t in puzzle.draw(case, seed).items()}
    outputs = {name: t.to(device) for name, t in fresh_outputs(puzzle, case, inputs).items()}
    tensors, raw = _guarded({**inputs, **outputs})
    arguments = launch_arguments(puzzle, case, tensors)
    kernel[grid](**arguments)
    synchronize(device)
    findings = _compare(puzzle, case, inputs, tensors, raw, device)
    return findings, lambda: kernel[grid](**arguments), inputs


def _guarded(tensors: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Copies between guard zones, in the kernel's reach."""
    raw = {name: torch.empty(span_of(t) * t.element_size() + 2 * GUARD_BYTES, dtype=torch.uint8, device=t.device)
           for name, t in tensors.items()}
    return {name: guarded(t, raw[name]) for name, t in tensors.items()}, raw


def _compare(puzzle: Puzzle, case: Case, inputs: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor],
             raw: dict[str, torch.Tensor], device: torch.device) -> list[Finding]:
    with device:                                # the answer's own arange and zeros live there, too
        answers = puzzle.solve(inputs, case)
    findings = []
    for name, answer in answers.items():
        wrong = int((error_ratio(tensors[name], answer) > 1).sum())
        if wrong:
            findings.append(Finding("gpu", f"on the GPU, {wrong} of {answer.value.numel()} elements of {name} differ",
                                    "accesses that overlap between programs; tl.dot's input_precision", case=str(case)))
    for name, t in inputs.items():
        if name not in puzzle.outputs and not same_bits(tensors[name], t):
            findings.append(Finding("gpu", f"on the GPU, the input {name} was changed", case=str(case)))
    for name, zone in raw.items():
        if not bool(((zone[:GUARD_BYTES] == CANARY) & (zone[-GUARD_BYTES:] == CANARY)).all()):
            findings.append(Finding("gpu", f"on the GPU, the guard zone around {name} was overwritten", case=str(case)))
    return findings


def _timed(puzzle: Puzzle, inputs: dict[str, torch.Tensor], launch: Callable[[], None], device: torch.device) -> GpuRun:
    """Best times of the kernel and of the reference as plain torch, and the least time possible."""
    from triton.testing import do_bench
    case = puzzle.big

    def reference():
        with device:
            puzzle.reference(**inputs, **puzzle.meta(case))

    moved = sum(t.numel() * t.element_size() for t in inputs.values()) + sum(
        t.dtype.itemsize * torch.Size(t.shape(case.sizes)).numel() for t in puzzle.outputs.values())
    least = moved / _bandwidth(do_bench, device)
    flops = evaluate(puzzle.flops, case.sizes)
    if flops:
        dtype = next(t.dtype for t in inputs.values() if t.dtype.is_floating_point)
        least = max(least, flops / _matmul_rate(do_bench, device, dtype))
    return GpuRun(torch.cuda.get_device_name(device), str(case), do_bench(launch, return_mode="min") / 1e3,
                  do_bench(reference, return_mode="min") / 1e3, least)


def _bandwidth(do_bench, device: torch.device) -> float:
    """Bytes a second that a copy moves, read and written."""
    source = torch.empty(_COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * _COPY_BYTES / (do_bench(lambda: target.copy_(source), return_mode="min") / 1e3)


def _matmul_rate(do_bench, device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of torch's own square matrix product in `dtype`."""
    a = torch.randn(_MATMUL_SIZE, _MATMUL_SIZE, device=device, dtype=dtype)
    return 2 * _MATMUL_SIZE ** 3 / (do_bench(lambda: a @ a, return_mode="min") / 1e3)
