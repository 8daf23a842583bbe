"""The same kernel as a GPU would run it: compiled for three generations, without a GPU.

    learner's process: text ─► Triton's language     here: ─► PTX ─► ptxas ─► registers, shared memory, spills

The interpreter accepts things that no GPU can run (a plain Python number from outside, a shape
known only at run time), so compiling is part of the verdict. It must happen in a process that
never saw TRITON_INTERPRET: a kernel is one or the other from its decorator on. Notebook 08.
The first step runs the kernel's own Python. What comes out of it is text, which a fork compiles further.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiinfra.gpu import confine, process
from aiinfra.gpu.compile import build_translated, resource_usage
from aiinfra.kernels.chip import SHARED_LIMIT
from puzzles.judge.explain import explain
from puzzles.judge.launch import POINTERS
from puzzles.judge.runner import EndedEarly, LearnerProcess
from puzzles.judge.verdict import Finding, ResourceUsage
from puzzles.puzzle import Puzzle
from puzzles.source import Piece
from puzzles.tensors import Number

TARGETS = (80, 90, 100)          # A100; H100, H200, H20; B200
_MOST_SAID = 300
_MOST_SPILLED = 4096             # bytes a thread: four times what its registers hold


def compile_all(puzzle: Puzzle, runner: LearnerProcess, folder: Path,
                seconds: float) -> tuple[list[ResourceUsage], list[Finding]]:
    """Compile for each of TARGETS with the puzzle's large blocks; the first failure ends it. `seconds` limits
    each part.
    """
    try:
        translated = {target: _translated(puzzle, runner, target) for target in TARGETS}
    except EndedEarly as early:
        return [], [early.finding]
    files = {target: folder / f"sm_{target}.ttir" for target in TARGETS}
    for target, text in translated.items():
        files[target].write_text(text.replace(str(folder), "kernel"))     # the same text is compiled once
    usages: list[ResourceUsage] = []
    for target, said in _in_fork(files, seconds).items():
        if "error" in said:
            return usages, [Finding("does_not_compile", f"for sm_{target}: {said['error']}")]
        usages.append(ResourceUsage(**said))
        if found := too_much(usages[-1], target):
            return usages, [found]
    return usages, []


def too_much(usage: ResourceUsage, target: int) -> Finding | None:
    """A program that the chip cannot start, or whose blocks live in memory rather than in registers."""
    at = f"a program takes {{:,}} {{}} on {usage.target}"
    if usage.shared_bytes > SHARED_LIMIT[target]:
        taken = at.format(usage.shared_bytes, "bytes of shared memory")
        look = "the blocks that meet in tl.dot, tl.trans or a reduction: fewer or smaller ones at a time"
        message = f"{taken}, and the chip has {SHARED_LIMIT[target]:,}: it could not be started"
        return Finding("does_not_fit", message, look)
    if usage.spill_bytes > _MOST_SPILLED:
        taken = at.format(usage.spill_bytes, "bytes of each thread's own memory, for want of registers,")
        look = "how many elements are alive at once: 128 threads share a block, and each has 255 registers"
        return Finding("does_not_fit", f"{taken}; {_MOST_SPILLED:,} are the limit here", look)
    return None


def _translated(puzzle: Puzzle, runner: LearnerProcess, target: int) -> str:
    """The kernel in Triton's own language. Raises EndedEarly with the finding if it has no such form."""
    blocks = {name: puzzle.big.sizes[name] for name in puzzle.blocks}
    request = {"do": "translate", "types": _types(puzzle), "constants": blocks, "arch": target}
    return runner.ask(request, lambda _, data: data.decode(errors="replace"))


def _in_fork(files: Mapping[int, Path], seconds: float) -> dict[int, dict[str, Any]]:
    """Of each target, a ResourceUsage's fields or {"error": …}. A compiler that crashes or hangs takes only
    the fork with it.
    """
    def compile_and_say(pipe: int) -> None:
        confine.die_with_parent()
        for target, file in files.items():
            line = json.dumps([target, _compiled(file, target)])
            os.write(pipe, f"{line}\n".encode())

    ended = process.in_fork(compile_and_say, seconds)
    said = dict(map(json.loads, ended.output.decode().splitlines()))
    missing = [target for target in files if target not in said]
    if missing and not ended.in_time:
        why = f"the compiler was still at work after {seconds:g} s; are the blocks too large?"
        said[missing[0]] = {"error": why}
    elif missing:
        said[missing[0]] = {"error": f"the compiler itself ended with exit code {ended.exit_code}"}
    return said


def _compiled(file: Path, target: int) -> dict[str, Any]:
    try:
        built = build_translated(file, target)
    except Exception as error:               # the compiler's, and ptxas's, own
        return {"error": f"{type(error).__name__}: {_last_line(error)}"}
    usage = resource_usage(built.asm["cubin"])
    return dict(
        target=f"sm_{target}",
        registers=usage["REG"],
        shared_bytes=built.metadata.shared,
        spill_bytes=usage["STACK"],
    )


def _types(puzzle: Puzzle) -> dict[str, str]:
    """Triton's type of each parameter that is not a 32-bit integer."""
    types = {f"{name}_ptr": POINTERS[tensor.dtype] for name, tensor in puzzle.tensors.items()}
    for name, kind in puzzle.scalars.items():
        if kind is Number:
            types[name] = "fp32"
    return types


def refused(error: Exception, files: Mapping[str, Piece], target: int) -> Finding:
    """The finding for a kernel that the compiler does not accept. Made in the learner's process."""
    found = explain(error, files)
    return replace(found, kind="does_not_compile", message=f"for sm_{target}: {found.message}")


def _last_line(error: Exception) -> str:
    said = [text.strip() for text in str(error).splitlines() if text.strip()] or ["no message"]
    return said[-1][:_MOST_SAID]
