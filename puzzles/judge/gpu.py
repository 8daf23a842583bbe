"""With a GPU at hand: the compiled kernel at a large size, against the answer and against torch.

    guard x guard, guard z guard ────before.safetensors──► on_gpu.py, in the learner's process: launch, time
    same answer?  guards untouched?    ◄──after.safetensors───

The interpreter has found what can be found by watching; this run finds what only hardware does
(programs at the same time), and gives the only honest speed. What needs a GPU here happens in forks, too: a
process that has used CUDA cannot be forked. The kernel's own time is the learner's process' word.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from aiinfra.gpu import process
from puzzles.judge.launch import fresh_outputs, launch_arguments, same_bits
from puzzles.judge.memory import CANARY, GUARD_BYTES, guarded, inside, span_of
from puzzles.judge.runner import EndedEarly, LearnerProcess
from puzzles.judge.tolerance import error_ratio
from puzzles.judge.verdict import Finding, GpuRun
from puzzles.judge.wire import number
from puzzles.puzzle import Case, Puzzle
from puzzles.tensors import evaluate

BEFORE, AFTER = "before.safetensors", "after.safetensors"
_COPY_BYTES = 1 << 29
_MATMUL_SIZE = 4096
_OVERLAP = "accesses that overlap between programs; tl.dot's input_precision"


def run(puzzle: Puzzle, runner: LearnerProcess, folder: Path, seed: int, grid: tuple[int, ...],
        seconds: float) -> tuple[GpuRun | None, list[Finding]]:
    """Run and time the kernel of `runner` at the puzzle's large size; (None, []) where there is no GPU.
    `seconds` limits each part.
    """
    if not _in_fork(torch.cuda.is_available, seconds):
        return None, []
    prepared = prepare(puzzle, puzzle.big, seed)
    save_file(prepared.zones, folder / BEFORE)
    request = {"do": "time", "grid": grid, "views": prepared.views, "numbers": prepared.numbers}
    try:
        kernel_seconds = runner.ask(request, lambda answer, _: number(answer, "seconds"))
    except EndedEarly as early:
        found = early.finding
        message = f"on the GPU: {found.message}"
        return None, [Finding("gpu", message, "this kernel at large sizes", line=found.line, code=found.code)]
    said = _in_fork(lambda: _judged(prepared, folder / AFTER, kernel_seconds), seconds)
    if said is None:
        return None, [Finding("gpu", "on the GPU, the outputs could not be read back", _OVERLAP)]
    if said["findings"]:
        return None, [Finding(**one) for one in said["findings"]]
    return GpuRun(**said["run"]), []


def _in_fork(work: Callable[[], Any], seconds: float) -> Any:
    """work(), whose result is plain data, in a copy of this process; None if it failed there."""
    ended = process.in_fork(lambda pipe: os.write(pipe, json.dumps(work()).encode()), seconds)
    if not ended.output:
        return None
    return json.loads(ended.output)


@dataclass(frozen=True)
class Prepared:
    """A launch before it happens: inputs, every tensor in a zone between guards, and the other arguments."""

    puzzle: Puzzle
    case: Case
    inputs: Mapping[str, torch.Tensor]
    zones: dict[str, torch.Tensor]              # uint8: guard, tensor, guard
    views: dict[str, dict[str, Any]]            # how a zone is a tensor: dtype, shape and strides
    numbers: dict[str, float]                   # arguments that are no tensors

    def findings(self, after: Mapping[str, torch.Tensor], device: torch.device) -> Iterator[Finding]:
        """Where the outputs in the zones `after` the launch differ from the answer, which inputs were
        changed, which guard zones broken.
        """
        if any(after[name].shape != zone.shape for name, zone in self.zones.items()):
            yield self._finding("the tensors have come back in other sizes")
            return
        tensors = {name: inside(after[name].to(device), **view) for name, view in self.views.items()}
        inputs = {name: values.to(device) for name, values in self.inputs.items()}
        with device:                            # the answer's own arange and zeros live there, too
            answers = self.puzzle.solve(inputs, self.case)
        for name, expected in answers.items():
            wrong = int((error_ratio(tensors[name], expected) > 1).sum())
            if wrong:
                elements = f"{wrong} of {expected.value.numel()} elements"
                yield self._finding(f"{elements} of {name} differ", _OVERLAP)
        for name, values in inputs.items():
            if name not in self.puzzle.outputs and not same_bits(tensors[name], values):
                yield self._finding(f"the input {name} was changed")
        for name in self.zones:
            if not _is_intact(after[name]):
                yield self._finding(f"the guard zone around {name} was overwritten")

    def _finding(self, what: str, look_at: str = "") -> Finding:
        return Finding("gpu", f"on the GPU, {what}", look_at, case=str(self.case))


def prepare(puzzle: Puzzle, case: Case, seed: int) -> Prepared:
    """Fresh inputs and outputs for one launch, on the CPU."""
    inputs = puzzle.draw(case, seed)
    zones, views = {}, {}
    for name, values in (inputs | fresh_outputs(puzzle, case, inputs)).items():
        size = span_of(values) * values.element_size() + 2 * GUARD_BYTES
        zones[name] = torch.empty(size, dtype=torch.uint8)
        guarded(values, zones[name])
        kind = str(values.dtype).removeprefix("torch.")
        views[name] = {"dtype": kind, "shape": values.shape, "strides": values.stride()}
    arguments = launch_arguments(puzzle, case, inputs | fresh_outputs(puzzle, case, inputs))
    numbers = {name: value for name, value in arguments.items() if not isinstance(value, torch.Tensor)}
    return Prepared(puzzle=puzzle, case=case, inputs=inputs, zones=zones, views=views, numbers=numbers)


def _is_intact(zone: torch.Tensor) -> bool:
    before, after = zone[:GUARD_BYTES], zone[-GUARD_BYTES:]
    return bool(((before == CANARY) & (after == CANARY)).all())


def _judged(prepared: Prepared, file: Path, kernel_seconds: float) -> dict[str, Any]:
    """On the GPU: the findings, and if there are none the timed run; as plain data."""
    device = torch.device("cuda")
    found = [asdict(one) for one in prepared.findings(load_file(file), device)]
    if found:
        return {"findings": found}
    return {"findings": [], "run": asdict(_timed(prepared, device, kernel_seconds))}


def _timed(prepared: Prepared, device: torch.device, kernel_seconds: float) -> GpuRun:
    """Best times of the kernel and of the reference as plain torch, and the least time possible."""
    puzzle, case = prepared.puzzle, prepared.case
    inputs = {name: values.to(device) for name, values in prepared.inputs.items()}

    def reference() -> None:
        with device:
            puzzle.reference(**inputs, **puzzle.meta(case))

    return GpuRun(
        device=torch.cuda.get_device_name(device),
        case=str(case),
        kernel_seconds=kernel_seconds,
        torch_seconds=best_seconds(reference),
        least_seconds=_least_seconds(prepared, device),
    )


def _least_seconds(prepared: Prepared, device: torch.device) -> float:
    """The bytes that must move, or the FLOPs that must be done, at the best rate that this device shows now:
    of reading, writing or both; for float32, also by TF32, which a kernel may use three times a product.
    """
    puzzle, sizes = prepared.puzzle, prepared.case.sizes
    least = least_bytes(prepared, device) / _bandwidth(device)
    flops = evaluate(puzzle.flops, sizes)
    if flops:
        dtypes = [values.dtype for values in prepared.inputs.values()]
        floating = next(dtype for dtype in dtypes if dtype.is_floating_point)
        least = max(least, flops / _matmul_rate(device, floating))
    return least


def least_bytes(prepared: Prepared, device: torch.device) -> int:
    """The bytes that no kernel can do without: each element that must be read or written counts once."""
    puzzle, case = prepared.puzzle, prepared.case
    inputs = {name: values.to(device) for name, values in prepared.inputs.items()}
    with device:
        answers = puzzle.solve(inputs, case)
    dtypes = {name: tensor.dtype for name, tensor in puzzle.tensors.items()}
    least = puzzle.least_elements(prepared.inputs, case, answers)
    return sum(count * dtypes[name].itemsize for name, count in least.items())


def best_seconds(work: Callable[[], object]) -> float:
    """The least seconds that work() took on the GPU, of many."""
    from triton.testing import do_bench
    return do_bench(work, return_mode="min") / 1e3


def _bandwidth(device: torch.device) -> float:
    """The most bytes a second that moved: read and written, as a copy does, or one of the two."""
    source = torch.zeros(_COPY_BYTES // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    seconds_a_byte = (
        best_seconds(lambda: target.copy_(source)) / (2 * _COPY_BYTES),
        best_seconds(target.zero_) / _COPY_BYTES,
        best_seconds(source.sum) / _COPY_BYTES,
    )
    return 1 / min(seconds_a_byte)


def _matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s that no kernel with inputs of this dtype beats, by torch's own square matrix product.

    float32 has two ways to the same accuracy: the plain one, and three products of TF32 in place of one
    (tl.dot's "tf32x3"). The faster counts.
    """
    plain = _product_rate(device, dtype)
    if dtype != torch.float32:
        return plain
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        return max(plain, _product_rate(device, dtype) / 3)
    finally:
        torch.set_float32_matmul_precision(before)


def _product_rate(device: torch.device, dtype: torch.dtype) -> float:
    a = torch.randn(_MATMUL_SIZE, _MATMUL_SIZE, device=device, dtype=dtype)
    return 2 * _MATMUL_SIZE ** 3 / best_seconds(lambda: a @ a)
