"""Put a Tracer between a kernel and Triton's interpreter.

The interpreter calls one builder method for each memory operation, with an array of addresses and
a mask. For one launch, the hooks stand in for these methods:

    kernel line ──► builder.create_masked_load(addresses, mask, other)
                       Tracer.visit: whose element is each address? who asks? legal? raced?
                       └─► the real method, on the legal lanes only

Invariant: no illegal access is carried out, so a wrong kernel cannot hurt the process. A masked
lane without `other=` loads poison (NaN), as a GPU may give anything. Program order is shuffled.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from puzzles.judge.accesses import StopKernel, Tracer

_TF32_HALF = np.uint32(0x1000)              # half a unit in the last of the 10 bits that TF32 keeps
_TF32_KEPT = np.uint32(0xFFFFE000)
Instead = tuple[tuple[str, int], float]      # ((file, line), value)


@contextmanager
def watching(tracer: Tracer, poison: float, instead: Instead | None = None) -> Iterator[None]:
    """Put the hooks into Triton's interpreter, and take them out again. `poison` is what masked lanes hold;
    `instead` names a line and what masked lanes hold there, whatever its other= says.
    """
    from triton.runtime import interpreter
    builder = interpreter.interpreter_builder
    patch = interpreter._patch_lang_tensor
    hooks = _Hooks(tracer=tracer, poison=poison, interpreter=interpreter, instead=instead)
    for name, hook in hooks.methods.items():
        setattr(builder, name, hook)
    interpreter._patch_lang_tensor = _mended(patch, tracer)
    try:
        yield
    finally:
        interpreter._patch_lang_tensor = patch
        for name in hooks.methods:
            delattr(builder, name)               # uncovers the class's own method again


class _Hooks:
    """The methods that stand in, and the real ones. `pointers`, `mask`, `values` are handles with an array
    in .data.
    """

    def __init__(self, tracer: Tracer, poison: float, interpreter: ModuleType, instead: Instead | None):
        self._tracer = tracer
        self._poison = poison
        self._interpreter = interpreter
        self._instead = instead
        self.methods: dict[str, Callable] = {
            "set_grid_idx": self._next_program,
            "create_masked_load": self._load,
            "create_masked_store": self._store,
            "create_atomic_rmw": self._atomic,
            "create_atomic_cas": self._compare_and_swap,
            "create_dot": self._dot,
        }
        builder = interpreter.interpreter_builder
        self._real = {name: getattr(builder, name) for name in self.methods}

    def _next_program(self, *_: int) -> None:
        self._real["set_grid_idx"](*self._tracer.next_program())

    def _load(self, pointers, mask, other, *rest, **options):
        mask = _as_handle(mask, pointers)
        legal = self._tracer.visit("read", pointers, mask)
        if other is None:
            other = self._poisoned(pointers)
            cut_off = int((~mask.data).sum())
            if cut_off:
                self._tracer.unguarded[self._tracer.line()] += cut_off
        elif not mask.data.all():
            other = self._guarded(other, mask)
        return self._real["create_masked_load"](pointers, _with(mask, legal), other, *rest, **options)

    def _store(self, pointers, values, mask, *rest):
        mask = _as_handle(mask, pointers)
        legal = self._tracer.visit("write", pointers, mask, values)
        return self._real["create_masked_store"](pointers, values, _with(mask, legal), *rest)

    def _atomic(self, operation, pointers, values, mask, *rest):
        legal = self._tracer.visit("atomic", pointers, mask)
        return self._real["create_atomic_rmw"](operation, pointers, values, _with(mask, legal), *rest)

    def _compare_and_swap(self, pointers, compare, values, *rest):
        everyone = np.ones_like(pointers.data, dtype=bool)
        legal = self._tracer.visit("atomic", pointers, type(pointers)(everyone, compare.dtype))
        if not legal.all():
            raise StopKernel                        # cas takes no mask, so an illegal one cannot be skipped
        return self._real["create_atomic_cas"](pointers, compare, values, *rest)

    def _dot(self, a, b, accumulator, precision, *rest):
        """Float32 factors lose what a GPU's TF32 drops, unless the kernel says input_precision="ieee"."""
        if a.data.dtype == np.float32 and getattr(precision, "name", "") == "TF32":
            self._tracer.used_tf32 = True
            a = type(a)(_tf32(a.data), a.dtype)
            b = type(b)(_tf32(b.data), b.dtype)
        return self._real["create_dot"](a, b, accumulator, precision, *rest)

    def _guarded(self, other: Any, mask: Any) -> Any:
        """What masked lanes load: `other`, unless something else is tried on this line."""
        line = self._tracer.line()
        if other.data.dtype.kind != "f":
            return other
        values = np.broadcast_to(other.data, mask.data.shape)[~mask.data]
        self._tracer.guarded.setdefault(line, set()).update(values[:1].tolist())
        if self._instead is None or self._instead[0] != line:
            return other
        return type(other)(np.full_like(other.data, self._instead[1]), other.dtype)

    def _poisoned(self, pointers: Any) -> Any:
        """A handle full of what a masked lane without `other=` may hold."""
        dtype = pointers.get_element_ty()
        value = _poison(self._poison, self._interpreter._get_np_dtype(dtype), dtype.is_floating())
        values = np.full(pointers.data.shape, value)
        return self._interpreter.TensorHandle(values, dtype)


def _poison(poison: float, dtype: np.dtype, is_floating: bool) -> Any:
    """`poison` in a dtype of NumPy's; something wild where it cannot be said in it."""
    if dtype.kind == "f":
        limits = np.finfo(dtype)
        return dtype.type(np.clip(poison, float(limits.min), float(limits.max)))
    if is_floating:                             # bfloat16 and float8 travel as unsigned integers
        return dtype.type(np.iinfo(dtype).max)
    if dtype.kind not in "iu":
        return True
    if poison == 0:
        return dtype.type(0)
    return dtype.type(np.iinfo(dtype).max - 12)


def _with(mask: Any, legal: np.ndarray) -> Any:
    """A mask handle that also leaves out the illegal lanes."""
    if legal.all():
        return mask
    return type(mask)(mask.data & legal, mask.dtype)


def _as_handle(mask: Any, pointers: Any) -> Any:
    """Block pointers hand over their mask as a bare array."""
    if isinstance(mask, np.ndarray):
        return type(pointers)(mask, pointers.dtype)
    return mask


def _mended(patch: Callable, tracer: Tracer) -> Callable:
    """Triton 3.6 makes a loop bound of an array with one element by int(), which NumPy 2.4 refuses; and all
    versions call a block true, where a compiler refuses it.
    """
    def truth(tensor):
        values = tensor.handle.data
        if values.size == 1:
            return bool(values.item())
        tracer.tested_blocks.append(tracer.line())
        return True

    def patch_and_mend(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))
        scope.set_attr(tensor, "__bool__", truth)
    return patch_and_mend


def _tf32(values: np.ndarray) -> np.ndarray:
    """Float32 rounded to TF32: 10 of the 23 bits after the point are kept."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + _TF32_HALF) & _TF32_KEPT).view(np.float32)
