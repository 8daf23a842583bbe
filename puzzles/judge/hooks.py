"""In the learner's process: Triton's interpreter, without any memory of its own.

The interpreter calls one builder method for each memory operation, with an array of addresses and a mask. For
one launch, the hooks stand in for these methods and send what is asked to the judge's process:

    kernel line ──► builder.create_masked_load(addresses, mask, other)
                       └──► channel ──► memory_server.py: whose element is each address? legal? raced?
                       ◄── the values ◄──

Invariant: the addresses mean something only there. What a kernel knows of its inputs it has loaded, and
whatever it stores is seen. The judge also says in which order the programs run.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from puzzles.judge.wire import Channel
from puzzles.source import Piece

_TF32_HALF = np.uint32(0x1000)              # half a unit in the last of the 10 bits that TF32 keeps
_TF32_KEPT = np.uint32(0xFFFFE000)


class LaunchIsOver(Exception):
    """The judge knows enough about this launch."""


@contextmanager
def elsewhere(channel: Channel, files: Mapping[str, Piece], order: np.ndarray) -> Iterator["Hooks"]:
    """Put the hooks into Triton's interpreter, and take them out again. `order` [n, 3]: the programs' ids."""
    from triton.runtime import interpreter
    builder = interpreter.interpreter_builder
    patch = interpreter._patch_lang_tensor
    hooks = Hooks(channel, list(files), order)
    for name, hook in hooks.methods.items():
        setattr(builder, name, hook)
    interpreter._patch_lang_tensor = _mended(patch, hooks)
    try:
        yield hooks
    finally:
        interpreter._patch_lang_tensor = patch
        for name in hooks.methods:
            delattr(builder, name)               # uncovers the class's own method again


class Hooks:
    """The methods that stand in. `pointers`, `mask`, `values` are handles with an array in .data."""

    def __init__(self, channel: Channel, files: list[str], order: np.ndarray):
        from triton.runtime import interpreter
        self._channel = channel
        self._files = files
        self._order = iter(order.tolist())
        self._interpreter = interpreter
        self.used_tf32 = False
        self.methods: dict[str, Callable] = {
            "set_grid_idx": self._next_program,
            "create_masked_load": self._load,
            "create_masked_store": self._store,
            "create_atomic_rmw": self._atomic,
            "create_atomic_cas": self._compare_and_swap,
            "create_dot": self._dot,
        }
        builder = interpreter.interpreter_builder
        self._real_next_program = builder.set_grid_idx
        self._real_dot = builder.create_dot

    def _next_program(self, *_: int) -> None:
        self._channel.post({"do": "program"})
        self._real_next_program(*next(self._order))

    def _load(self, pointers, mask, other, *rest, **options):
        dtype = self._interpreter._get_np_dtype(pointers.get_element_ty())
        given = []
        if other is not None:
            given.append(_lanes(other, pointers, dtype))
        message = self._message("read", pointers, dtype, other=bool(given))
        values = self._ask(message, pointers, _mask(mask, pointers), *given)
        return self._handle(values, pointers, pointers.get_element_ty())

    def _store(self, pointers, values, mask, *rest, **options):
        dtype = values.data.dtype
        message = self._message("write", pointers, dtype)
        lanes = _lanes(values, pointers, dtype)
        self._channel.post(message, _addresses(pointers), _mask(mask, pointers), lanes)

    def _atomic(self, operation, pointers, values, mask, *rest):
        dtype = values.data.dtype
        message = self._message("atomic", pointers, dtype, operation=operation.name)
        old = self._ask(message, pointers, _mask(mask, pointers), _lanes(values, pointers, dtype))
        return self._handle(old, pointers, values.dtype.scalar)

    def _compare_and_swap(self, pointers, compare, values, *rest):
        dtype = values.data.dtype
        message = self._message("swap", pointers, dtype)
        lanes = [_lanes(part, pointers, dtype) for part in (values, compare)]
        everyone = np.ones(pointers.data.size, bool)
        old = self._ask(message, pointers, everyone, *lanes)
        return self._handle(old, pointers, compare.dtype.scalar)

    def _dot(self, a, b, accumulator, precision, *rest):
        """Float32 factors lose what a GPU's TF32 drops, unless the kernel says input_precision="ieee"."""
        if a.data.dtype == np.float32 and getattr(precision, "name", "") == "TF32":
            self.used_tf32 = True
            a = type(a)(_tf32(a.data), a.dtype)
            b = type(b)(_tf32(b.data), b.dtype)
        return self._real_dot(a, b, accumulator, precision, *rest)

    def tell_of_tested_block(self) -> None:
        """Python asks a block for one truth value on this line."""
        self._channel.post({"do": "tested", "at": self._line()})

    def _message(self, verb: str, pointers: Any, dtype: np.dtype, **more: Any) -> dict[str, Any]:
        """What an operation says of itself: at which line it stands (by piece), how many lanes of which
        type."""
        is_float = pointers.get_element_ty().is_floating()
        return {
            "do": verb,
            "at": self._line(),
            "type": dtype.name,
            "float": is_float,
            "lanes": pointers.data.size,
            **more,
        }

    def _line(self) -> tuple[int, int]:
        """The reader's line that is running now, and of which piece of their text it is; line 0: of none."""
        frame = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename not in self._files:
            frame = frame.f_back
        if frame is None:
            return 0, 0
        return self._files.index(frame.f_code.co_filename), frame.f_lineno

    def _ask(self, message: dict[str, Any], pointers: Any, *arrays: np.ndarray) -> np.ndarray:
        """The values that the judge's memory holds there."""
        self._channel.post(message, _addresses(pointers), *arrays)
        answer, data = self._channel.receive()
        if "stop" in answer:
            raise LaunchIsOver
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return np.frombuffer(data, message["type"])

    def _handle(self, values: np.ndarray, pointers: Any, dtype: Any) -> Any:
        return self._interpreter.TensorHandle(values.reshape(pointers.data.shape), dtype)


def _addresses(pointers: Any) -> np.ndarray:
    return pointers.data.astype(np.uint64).ravel()


def _mask(mask: Any, pointers: Any) -> np.ndarray:
    """A mask as flat lanes. Block pointers hand over a bare array."""
    values = getattr(mask, "data", mask)
    if isinstance(mask, np.ndarray):
        values = mask
    return np.broadcast_to(values, pointers.data.shape).astype(bool).ravel()


def _lanes(values: Any, pointers: Any, dtype: np.dtype) -> np.ndarray:
    """Values as flat lanes, one for each pointer."""
    return np.broadcast_to(values.data, pointers.data.shape).astype(dtype).ravel()


def _mended(patch: Callable, hooks: Hooks) -> Callable:
    """Triton 3.6 makes a loop bound of an array with one element by int(), which NumPy 2.4 refuses; and all
    versions call a block true, where a compiler refuses it.
    """
    def truth(tensor):
        values = tensor.handle.data
        if values.size == 1:
            return bool(values.item())
        hooks.tell_of_tested_block()
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
