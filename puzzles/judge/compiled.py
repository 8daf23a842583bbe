"""The same kernel as a GPU would run it: compiled for three generations, without a GPU.

    text ─► Triton's compiler ─► PTX ─► ptxas ─► cubin ─► registers, shared memory, spills

The interpreter accepts things that no GPU can run (a plain Python number from outside, a shape
known only at run time), so compiling is part of the verdict. It must happen in a process that
never saw TRITON_INTERPRET: a kernel is one or the other from its decorator on. Notebook 08.
"""

from typing import Any

import torch

from aiinfra.gpu.compile import resource_usage, build
from puzzles.judge.explain import explain
from puzzles.judge.verdict import Compiled, Finding
from puzzles.puzzle import Number, Puzzle
from puzzles.source import Piece

TARGETS = (80, 90, 100)          # A100; H100, H200, H20; B200
_POINTERS = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.int64: "*i64",
             torch.int32: "*i32", torch.int8: "*i8", torch.uint8: "*u8"}


def compile_all(puzzle: Puzzle, kernel: Any, files: dict[str, Piece]) -> tuple[list[Compiled], list[Finding]]:
    """Compile for each of TARGETS with the puzzle's large blocks; the first failure ends it."""
    results = []
    for target in TARGETS:
        try:
            results.append(_compile(puzzle, kernel, target))
        except Exception as error:          # whatever the compiler dislikes is a finding about the kernel
            return results, [_refused(error, files, target)]
    return results, []


def _compile(puzzle: Puzzle, kernel: Any, target: int) -> Compiled:
    built = build(dict(kernel=kernel, types=_types(puzzle),
                       constexprs={name: puzzle.big.sizes[name] for name in puzzle.blocks}), target)
    usage = resource_usage(built.asm["cubin"])
    return Compiled(f"sm_{target}", usage["REG"], built.metadata.shared, usage["STACK"])


def _types(puzzle: Puzzle) -> dict[str, str]:
    """Triton's type of each parameter that is not a 32-bit integer."""
    pointers = {f"{name}_ptr": _POINTERS[t.dtype] for name, t in puzzle.tensors.items()}
    return pointers | {name: "fp32" for name, kind in puzzle.scalars.items() if kind is Number}


def _refused(error: Exception, files: dict[str, Piece], target: int) -> Finding:
    """The finding for a kernel that the compiler does not accept."""
    found = explain(error, files)
    line, code = _line_of(error, files) if found.line is None else (found.line, found.code)
    lines = [text.strip() for text in str(error).splitlines() if text.strip()]
    message = f"for sm_{target}: {type(error).__name__}: {lines[-1][:300] if lines else 'no message'}"
    return Finding("does_not_compile", message, found.look_at, line, code)


def _line_of(error: Exception, files: dict[str, Piece]) -> tuple[int | None, str]:
    """Where in the reader's text: Triton's CompilationError carries the source and the syntax node."""
    node, source = getattr(error, "node", None), getattr(error, "src", None)
    if node is None or not source:
        return None, ""
    code = source.splitlines()[node.lineno - 1].strip()
    lines = [n for piece in files.values() for n, text in enumerate(piece.text.splitlines(), 1) if text.strip() == code]
    return (lines[0] if lines else None), code
