"""The same kernel as a GPU would run it: compiled for three generations, without a GPU.

    text ─► Triton's compiler ─► PTX ─► ptxas ─► cubin ─► registers, shared memory, spills

The interpreter accepts things that no GPU can run (a plain Python number from outside, a shape
known only at run time), so compiling is part of the verdict. It must happen in a process that
never saw TRITON_INTERPRET: a kernel is one or the other from its decorator on. Notebook 08.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from aiinfra.gpu.compile import build, resource_usage
from puzzles.judge.explain import explain
from puzzles.judge.verdict import Finding, ResourceUsage
from puzzles.puzzle import Puzzle
from puzzles.source import Piece
from puzzles.tensors import Number

TARGETS = (80, 90, 100)          # A100; H100, H200, H20; B200
_POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int8: "*i8",
    torch.uint8: "*u8",
}


def compile_all(puzzle: Puzzle, kernel: Any,
                files: Mapping[str, Piece]) -> tuple[list[ResourceUsage], list[Finding]]:
    """Compile for each of TARGETS with the puzzle's large blocks; the first failure ends it."""
    usages: list[ResourceUsage] = []
    for target in TARGETS:
        try:
            usages.append(_compile(puzzle, kernel, target))
        except Exception as error:          # whatever the compiler dislikes is a finding about the kernel
            return usages, [_refused(error, files, target)]
    return usages, []


def _compile(puzzle: Puzzle, kernel: Any, target: int) -> ResourceUsage:
    blocks = {name: puzzle.big.sizes[name] for name in puzzle.blocks}
    built = build(dict(kernel=kernel, types=_types(puzzle), constexprs=blocks), target)
    usage = resource_usage(built.asm["cubin"])
    return ResourceUsage(
        target=f"sm_{target}",
        registers=usage["REG"],
        shared_bytes=built.metadata.shared,
        spill_bytes=usage["STACK"],
    )


def _types(puzzle: Puzzle) -> dict[str, str]:
    """Triton's type of each parameter that is not a 32-bit integer."""
    types = {f"{name}_ptr": _POINTERS[tensor.dtype] for name, tensor in puzzle.tensors.items()}
    for name, kind in puzzle.scalars.items():
        if kind is Number:
            types[name] = "fp32"
    return types


def _refused(error: Exception, files: Mapping[str, Piece], target: int) -> Finding:
    """The finding for a kernel that the compiler does not accept."""
    found = explain(error, files)
    return replace(found, kind="does_not_compile", message=f"for sm_{target}: {found.message}")
