"""What Triton compiles anew: a kernel, and all that it knows of the arguments when it is started.

    rms_norm(x [4096, 576] bf16, …)  ─►  _forward_kernel, x: *bf16 aligned to 16 bytes, width: i32 that 16
                                         divides, HAS_RESIDUAL=False, ROWS=4, BLOCK_D=1024, four warps

A pointer is known by its dtype and whether 16 divides its address; an integer by whether it is 1, whether 16
divides it, and whether 32 bits hold it, unless its kernel says do_not_specialize. Each new combination is
half a second or more of compiling, in the middle of whatever asked for it. Notebook 08.
"""

import json
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from aiinfra.kernels.lang import triton

_POINTERS = {torch.float32: "*fp32", torch.float64: "*fp64", torch.bfloat16: "*bf16", torch.float16: "*fp16",
             torch.int64: "*i64", torch.int32: "*i32", torch.int16: "*i16", torch.int8: "*i8",
             torch.uint8: "*u8", torch.bool: "*i1"}
_OPTIONS = {"num_warps": 4, "num_stages": 3}


@dataclass(frozen=True, order=True)
class Variant:
    """A kernel as Triton compiles it: by parameter, `types` as in compile_cases ("*bf16:16", "i32:16"; "1" is
    a one) and constexprs."""

    module: str
    kernel: str
    types: tuple[tuple[str, str], ...]
    constexprs: tuple[tuple[str, Any], ...]
    num_warps: int
    num_stages: int

    def __str__(self) -> str:
        constants = ", ".join(f"{name}={value}" for name, value in self.constexprs)
        kinds = sorted({kind for _, kind in self.types if kind.startswith("*")})
        return f"{self.module}.{self.kernel}({', '.join(kinds)}; {constants}; {self.num_warps} warps)"

    def case(self) -> dict:
        """What `compile.build` takes."""
        constexprs = dict(self.constexprs) | {name: 1 for name, kind in self.types if kind == "1"}
        return {
            "name": str(self),
            "kernel": getattr(import_module(self.module_name), self.kernel),
            "types": {name: kind for name, kind in self.types if kind != "1"},
            "constexprs": constexprs,
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
        }

    @property
    def module_name(self) -> str:
        """The kernel's file."""
        return f"aiinfra.kernels.{self.module}"

    def as_json(self) -> str:
        """For another process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Variant":
        """What `as_json` wrote."""
        values = json.loads(text)
        for name in ("types", "constexprs"):
            values[name] = tuple(map(tuple, values[name]))
        return cls(**values)


def variant_of(kernel: Any, arguments: tuple, options: dict[str, Any]) -> Variant:
    """What a launch kernel[grid](*arguments, **options) would have Triton compile."""
    names, free = kernel.arg_names, _free(kernel)
    given = dict(zip(names, arguments)) | options
    chosen = {name: given.pop(name, default) for name, default in _OPTIONS.items()}
    constexprs = {name for name in names if "constexpr" in str(kernel.fn.__annotations__.get(name, ""))}
    return Variant(
        module=kernel.fn.__module__.split(".")[-1],
        kernel=kernel.fn.__name__,
        types=tuple((name, _kind(given[name], name in free)) for name in names if name not in constexprs),
        constexprs=tuple((name, given[name]) for name in names if name in constexprs),
        **chosen,
    )


def launchers() -> list[type]:
    """The classes whose `run` starts a Triton kernel, on a GPU and in the interpreter. Raises RuntimeError
    where there is no Triton."""
    if not hasattr(triton, "runtime"):
        raise RuntimeError("Triton is not installed here (it ships for Linux), so its kernels cannot be "
                           "counted.")
    from triton.runtime.interpreter import InterpretedFunction
    return [triton.runtime.JITFunction, InterpretedFunction]


def _free(kernel: Any) -> set[str]:
    """Parameters whose values Triton does not look at."""
    if hasattr(kernel, "params"):
        return {param.name for param in kernel.params if param.do_not_specialize}
    return set(kernel.kwargs.get("do_not_specialize") or ())            # an interpreted one


def _kind(value: Any, free: bool) -> str:
    if isinstance(value, Tensor):
        aligned = value.storage_offset() * value.itemsize % 16 == 0     # memory itself begins at 512 bytes
        return _POINTERS[value.dtype] + (":16" if aligned else ":1")
    if isinstance(value, float):
        return "fp32"
    kind = "i32" if -2**31 <= value < 2**31 else "i64"
    if free:
        return kind
    if value == 1:
        return "1"
    return f"{kind}:16" if value % 16 == 0 else kind
