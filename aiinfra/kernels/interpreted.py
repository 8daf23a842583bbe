"""bfloat16 in Triton's interpreter: computed as a GPU computes it, not on the bits as if they were integers.

    the interpreter, as it ships                   2.5 · 1.0 as bits: 0x4020 · 0x3F80 = 266,858,496
    with this    bits ──widen──► float32 ──the same operation──► float32 ──round to nearest even──► bits

NumPy has no bfloat16, so the interpreter keeps its bits in uint16: right for loads and stores, and a silent
wrong answer for arithmetic, comparisons, sums, `tl.dot` and casts from integers. Casts from float32 cut bits
off where hardware rounds. Here each of them widens first. `tl.dot` multiplies and adds in float32, as
tensor cores do; a sum is rounded once, at its end, where a GPU rounds on the way.

float8, whose bits would be added as well, is refused outside of `tl.dot`.

Invariant: other dtypes are computed by the interpreter's own code, as before. Nothing is changed in a process
that compiles its kernels. Notebooks 08 to 10 and the puzzles' judge run in it.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import TensorHandle

_BELOW_HALF = np.uint32(0x7FFF)              # of the 16 bits that are cut off
_QUIET_NAN = np.uint32(0x400000)             # so that rounding leaves a NaN a NaN
_WIDTH = np.uint32(16)


def mend_bfloat16() -> None:
    """Let the interpreter of this process compute bfloat16; does nothing twice."""
    builder = interpreter.InterpreterBuilder
    if getattr(builder, "get_bf16", None) is _constant:
        return
    for name in ("binary_op", "unary_op", "create_fma"):
        setattr(builder, name, _in_float32(getattr(builder, name)))
    for name in ("create_dot", "create_print"):
        setattr(builder, name, _widened_first(getattr(builder, name)))
    for reduction in (interpreter.ReduceOps, interpreter.ScanOps):
        reduction.apply_impl = _reduced_in_float32(reduction.apply_impl)
    builder.cast_impl = _cast(builder.cast_impl)
    builder.create_fp_to_fp = _rounded(builder.create_fp_to_fp)
    builder.create_atomic_rmw = _added_one_by_one(builder.create_atomic_rmw)
    builder.get_bf16 = _constant


def widen(bits: np.ndarray) -> np.ndarray:
    """The float32 values of bfloat16 bits: the same bits, and 16 zeros behind them."""
    return (bits.astype(np.uint32) << _WIDTH).view(np.float32)


def narrow(values: np.ndarray) -> np.ndarray:
    """The bits of float32 values as bfloat16, rounded to the nearest, ties to even. NaN stays NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    odd = (bits >> _WIDTH) & np.uint32(1)
    rounded = np.where(np.isnan(values), bits | _QUIET_NAN, bits + _BELOW_HALF + odd)
    return (rounded >> _WIDTH).astype(np.uint16).reshape(np.shape(values))


def _in_float32(method: Callable) -> Callable:
    """An operation whose result has the dtype of what it is given: widen, compute, narrow."""
    @wraps(method)
    def computed(builder, *arguments):
        if not any(map(_is_bfloat16, arguments)):
            _refuse_float8(arguments)
            return method(builder, *arguments)
        result = method(builder, *map(_widened, arguments))
        if result.data.dtype == bool:                    # a comparison
            return result
        return _narrowed(result)
    return computed


def _widened_first(method: Callable) -> Callable:
    """An operation whose result has another dtype, or none."""
    @wraps(method)
    def computed(builder, *arguments):
        return method(builder, *map(_widened, arguments))
    return computed


def _reduced_in_float32(method: Callable) -> Callable:
    """Sums, scans and every other way to combine the elements of a block, given as a tuple of blocks."""
    @wraps(method)
    def computed(reduction, blocks):
        semantic = interpreter.interpreter_semantic
        ours = [block.dtype == tl.bfloat16 for block in blocks]
        if not any(ours):
            return method(reduction, blocks)
        wide = tuple(semantic.cast(block, tl.float32) if its else block for block, its in zip(blocks, ours))
        results = method(reduction, wide)
        if not isinstance(results, tuple | list):
            results = [results]
        return [semantic.cast(result, tl.bfloat16) if its else result for result, its in zip(results, ours)]
    return computed


def _cast(method: Callable) -> Callable:
    """To bfloat16 from all that is a number, and back."""
    @wraps(method)
    def computed(builder, source, dtype):
        if dtype.scalar == tl.bfloat16 and not _is_bfloat16(source):
            return TensorHandle(narrow(source.data.astype(np.float32)), dtype.scalar)
        if _is_bfloat16(source) and dtype.scalar != source.dtype.scalar:
            return method(builder, _widened(source), dtype)
        return method(builder, source, dtype)
    return computed


def _rounded(method: Callable) -> Callable:
    """A cast with a rounding mode; only to the nearest is ours."""
    @wraps(method)
    def computed(builder, source, dtype, mode):
        to_nearest = getattr(mode, "name", "") == "RTNE"
        if to_nearest and dtype.scalar == tl.bfloat16:
            return builder.cast_impl(source, dtype)
        return method(builder, source, dtype, mode)
    return computed


def _added_one_by_one(method: Callable) -> Callable:
    """Atomic addition, the only atomic operation of Triton's on bfloat16. Several lanes may add to one place.

    Who watches loads and stores (in place of this builder's methods) sees an atomic operation, and neither.
    """
    unwatched = interpreter.InterpreterBuilder()

    @wraps(method)
    def computed(builder, operation, pointers, values, mask, *rest):
        if not _is_bfloat16(values):
            return method(builder, operation, pointers, values, mask, *rest)
        before = np.zeros(values.data.shape, np.uint16)
        for lane in zip(*np.nonzero(mask.data)):
            place = TensorHandle(pointers.data[lane].reshape(1), pointers.dtype)
            value = TensorHandle(values.data[lane].reshape(1), values.dtype)
            old = unwatched.create_load(place, None, None, False)
            unwatched.create_store(place, unwatched.create_fadd(old, value), None, None)
            before[lane] = old.data.item()
        return TensorHandle(before, values.dtype.scalar)
    return computed


def _constant(_: Any, value: float) -> Any:
    """builder.get_bf16, which the interpreter lacks: x * 2.5 needs it."""
    return TensorHandle(narrow(np.array([value], np.float32)), tl.bfloat16)


def _is_bfloat16(argument: Any) -> bool:
    scalar = getattr(getattr(argument, "dtype", None), "scalar", None)
    return scalar == tl.bfloat16


def _refuse_float8(arguments: tuple) -> None:
    """Its bits travel as integers, too, and no GPU calculates with it outside of `tl.dot`."""
    for argument in arguments:
        scalar = getattr(getattr(argument, "dtype", None), "scalar", tl.float32)
        if scalar.is_floating() and scalar.primitive_bitwidth == 8:
            raise NotImplementedError(f"Triton's interpreter cannot calculate with {scalar}. "
                                      "Convert it with .to(tl.float32) first.")


def _widened(argument: Any) -> Any:
    if isinstance(argument, list):                       # what is printed
        return [_widened(one) for one in argument]
    if not _is_bfloat16(argument):
        return argument
    return TensorHandle(widen(argument.data), tl.float32)


def _narrowed(handle: Any) -> Any:
    return TensorHandle(narrow(handle.data), tl.bfloat16)
