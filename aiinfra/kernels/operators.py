"""Kernels as operators of PyTorch's own: whatever stands between Python and a GPU sees them.

    rms_norm(x, w)                                 a wrapper: checks, picks torch or Triton
      └─ torch.ops.aiinfra.rmsnorm_forward(…)      an operator: dispatch modes, profiler and compiler see it
           └─ launch(kernel, grid, …)              the GPU of its tensors; refuses a grid that no GPU has

A bare launch passes PyTorch by: who counts, traces or records operations would miss every kernel of ours. An
operator's function makes its outputs with `torch.empty` and launches; for tensors without memory (FakeTensor,
meta) the same function makes outputs without memory, and `launch` starts nothing. So an operator says once
what shapes it gives. Its outputs never share memory with its inputs; what it writes in place it names.
Gradients stay where they were, in an autograd.Function around two operators. Notebook 10.
"""

from collections.abc import Callable
from subprocess import CalledProcessError
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from aiinfra.environment import build_tools_missing

_LIBRARY = torch.library.Library("aiinfra", "FRAGMENT")
_GRID_LIMITS = (2**31 - 1, 65_535, 65_535)       # CUDA C++ programming guide, technical specifications


def operator(name: str, writes: tuple[str, ...] = ()) -> Callable[[Callable], Callable]:
    """A decorator: make a function of tensors and numbers, with its types written down, the operator
    torch.ops.aiinfra.<name>. writes: arguments that it changes in place. Returns what calls the operator."""
    def define(function: Callable) -> Callable:
        schema = torch.library.infer_schema(function, mutates_args=writes)
        _LIBRARY.define(name + schema)
        _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        torch.library.register_fake(f"aiinfra::{name}", function, lib=_LIBRARY)
        return getattr(torch.ops.aiinfra, name).default
    return define


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """kernel[grid](*arguments, **options) on the GPU that holds the first argument, whichever is the current
    one, and on that GPU's current stream. Raises ValueError for a grid that no GPU has."""
    for axis, (size, limit) in enumerate(zip(grid, _GRID_LIMITS)):
        if size > limit:
            raise ValueError(f"{kernel.fn.__name__} would need {size:,} programs along axis {axis} of its "
                             f"grid; a GPU has at most {limit:,} there. Cut the batch into smaller ones.")
    first = arguments[0]
    if first.is_meta or isinstance(first, FakeTensor):
        not_started(kernel, grid, arguments, options)
        return
    try:
        with torch.cuda.device_of(first):
            kernel[grid](*arguments, **options)
    except (CalledProcessError, RuntimeError) as failed:      # Triton's words for it are a compiler's command
        missing = build_tools_missing()
        if missing:
            raise RuntimeError(f"{kernel.fn.__name__} could not be started. {missing}") from failed
        raise


def not_started(kernel: Any, grid: tuple[int, ...], arguments: tuple, options: dict[str, Any]) -> None:
    """A launch on tensors without memory. Does nothing; who counts launches puts a function in its place."""


def same_memory(a: Tensor, b: Tensor) -> bool:
    """True if both begin at one address, also where there is no memory and so no address."""
    same = a.untyped_storage()._cdata == b.untyped_storage()._cdata
    return same and a.storage_offset() == b.storage_offset()
