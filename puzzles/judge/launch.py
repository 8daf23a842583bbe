"""What a kernel is launched with: its inputs, fresh outputs, and everything else that it receives by name."""

from collections.abc import Mapping
from typing import Any

import torch

from puzzles.puzzle import Case, Puzzle

Tensors = Mapping[str, torch.Tensor]
POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int8: "*i8",
    torch.uint8: "*u8",
}                                        # Triton's types
_PADDING = 3                             # elements between the rows of a padded tensor


def lay_out(puzzle: Puzzle, case: Case, tensors: Tensors) -> dict[str, torch.Tensor]:
    """The same values; where the case asks for it, with odd strides for the tensors that declare strides."""
    strided = [name for name, tensor in puzzle.tensors.items() if tensor.strides]
    laid = {}
    for name, values in tensors.items():
        if case.layout and name in strided:
            laid[name] = odd_strides(values, case.layout + strided.index(name))
        else:
            laid[name] = values.contiguous()
    return laid


def odd_strides(values: torch.Tensor, choice: int) -> torch.Tensor:
    """A copy of `values` with padded rows (odd choice), or with its dimensions in reverse order in memory."""
    if choice % 2 == 0 and values.dim() > 1:
        back = tuple(reversed(range(values.dim())))
        return values.permute(back).contiguous().permute(back)
    *rows, width = values.shape
    padded = torch.zeros(*rows, width + _PADDING, dtype=values.dtype)
    return padded[..., :width].copy_(values)


def fresh_outputs(puzzle: Puzzle, case: Case, inputs: Tensors, turn: int = 0) -> dict[str, torch.Tensor]:
    """Outputs full of NaN (or, for integers, of the largest or smallest value by `turn`), in the layout of
    the case.
    """
    made = {}
    for name, tensor in puzzle.outputs.items():
        if name not in inputs:
            start = tensor.unwritten[turn % len(tensor.unwritten)]
            made[name] = torch.full(tensor.shape(case.sizes), start, dtype=tensor.dtype)
    return lay_out(puzzle, case, made)


def launch_arguments(puzzle: Puzzle, case: Case, tensors: Tensors) -> dict[str, Any]:
    """Everything the kernel receives, by parameter name."""
    arguments: dict[str, Any] = {f"{name}_ptr": tensors[name] for name in puzzle.tensors}
    for name, tensor in puzzle.tensors.items():
        if tensor.strides:
            for axis, stride in zip(tensor.axes, tensors[name].stride()):
                arguments[f"stride_{name}{axis}"] = stride
    return arguments | puzzle.meta(case)


def plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The same as plain data: a tensor as its address and Triton's type of a pointer to it."""
    said = {}
    for name, value in arguments.items():
        said[name] = value
        if isinstance(value, torch.Tensor):
            said[name] = {"address": value.data_ptr(), "type": POINTERS[value.dtype]}
    return said


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Bit for bit: a NaN equals itself, and 0.0 differs from -0.0."""
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
