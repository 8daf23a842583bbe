"""Watch every load, store and atomic of a kernel in Triton's interpreter.

The interpreter calls one builder method for each memory operation, with an array of addresses and
a mask. `Tracer` takes the place of those methods for one launch:

    kernel line ──► builder.create_masked_load(addresses, mask, other)
                       Tracer: whose element is each address? who asks? legal? raced?
                       └─► the real method, on the legal lanes only

Invariant: no illegal access is carried out, so a wrong kernel cannot hurt the process. A masked
lane without `other=` loads poison (NaN), as a GPU may give anything. Program order is shuffled.
"""

import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from puzzles.judge.memory import Memory, Region
from puzzles.judge.races import RaceDetector
from puzzles.judge.verdict import Finding, Traffic
from puzzles.source import Piece

_MOST_FINDINGS = 4
_STORE_SLACK = 1.25               # a few elements may be stored again, not all of them


class StopKernel(Exception):
    """Enough is known about this launch."""


@dataclass
class _Use:
    """What one launch did with one tensor."""

    races: RaceDetector
    loaded: int = 0
    stored: int = 0
    atomic: bool = False
    touched: np.ndarray = None
    line_of_write: np.ndarray = None


@dataclass
class Tracer:
    """One watched launch. Findings collect in `findings`, traffic and writers in `uses`."""

    memory: Memory
    files: dict[str, Piece]
    grid: tuple[int, ...]
    seed: int
    poison: float = float("nan")
    findings: list[Finding] = field(default_factory=list)
    unguarded: Counter = field(default_factory=Counter)     # (file, line) -> masked lanes loaded without other=
    uses: dict[str, _Use] = field(default_factory=dict)
    used_tf32: bool = False

    def __post_init__(self):
        for region in self.memory.regions:
            n = region.tensor.numel()
            self.uses[region.name] = _Use(RaceDetector(n), touched=np.zeros(n, bool),
                                          line_of_write=np.zeros(n, np.int64))
        full = (*self.grid, 1, 1)[:3]
        order = list(product(*map(range, full)))
        random.Random(self.seed).shuffle(order)
        self._order = iter(order)
        self._program, self._shape = (0, 0, 0), full
        self._reported: set[tuple] = set()

    # --- hooks -----------------------------------------------------------------------------------

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Put the hooks into Triton's interpreter, and take them out again."""
        from triton.runtime import interpreter
        builder, patch = interpreter.interpreter_builder, interpreter._patch_lang_tensor
        hooks = {"set_grid_idx": self._next_program, "create_masked_load": self._load,
                 "create_masked_store": self._store, "create_atomic_rmw": self._atomic,
                 "create_atomic_cas": self._compare_and_swap, "create_dot": self._dot}
        self._real = {name: getattr(builder, name) for name in hooks}
        for name, hook in hooks.items():
            setattr(builder, name, hook)
        interpreter._patch_lang_tensor = _mended(patch)
        try:
            yield
        finally:
            interpreter._patch_lang_tensor = patch
            for name in hooks:
                delattr(builder, name)               # uncovers the class's own method again

    def _next_program(self, *_: int) -> None:
        self._program = next(self._order)
        self._real["set_grid_idx"](*self._program)

    def _load(self, pointers, mask, other, *rest):
        from triton.runtime import interpreter
        mask = _as_handle(mask, pointers)
        legal = self._visit("read", pointers, mask)
        if other is None:
            dtype = pointers.get_element_ty()
            values = np.full(pointers.data.shape, self._poison_for(interpreter._get_np_dtype(dtype), dtype))
            other = interpreter.TensorHandle(values, dtype)
            if not mask.data.all():
                self.unguarded[self._line()] += int((~mask.data).sum())
        return self._real["create_masked_load"](pointers, _with(mask, legal), other, *rest)

    def _store(self, pointers, values, mask, *rest):
        mask = _as_handle(mask, pointers)
        legal = self._visit("write", pointers, mask, values)
        return self._real["create_masked_store"](pointers, values, _with(mask, legal), *rest)

    def _atomic(self, operation, pointers, values, mask, *rest):
        legal = self._visit("atomic", pointers, mask)
        return self._real["create_atomic_rmw"](operation, pointers, values, _with(mask, legal), *rest)

    def _compare_and_swap(self, pointers, compare, values, *rest):
        mask = type(pointers)(np.ones_like(pointers.data, dtype=bool), compare.dtype)
        if not self._visit("atomic", pointers, mask).all():
            raise StopKernel                        # cas takes no mask, so an illegal one cannot be skipped
        return self._real["create_atomic_cas"](pointers, compare, values, *rest)

    def _dot(self, a, b, accumulator, precision, *rest):
        """Float32 factors lose what a GPU's TF32 drops, unless the kernel says input_precision="ieee"."""
        if a.data.dtype == np.float32 and getattr(precision, "name", "") == "TF32":
            self.used_tf32 = True
            a, b = (type(a)(_tf32(factor.data), factor.dtype) for factor in (a, b))
        return self._real["create_dot"](a, b, accumulator, precision, *rest)

    def _poison_for(self, np_dtype: np.dtype, dtype) -> np.ndarray:
        if np_dtype.kind == "f":
            return np_dtype.type(np.clip(self.poison, *_finite(np_dtype)))
        if dtype.is_floating():                     # bfloat16 and float8 travel as unsigned integers
            return np_dtype.type(np.iinfo(np_dtype).max)
        return np_dtype.type(0 if self.poison == 0 else np.iinfo(np_dtype).max - 12) if np_dtype.kind in "iu" else True

    # --- one access ------------------------------------------------------------------------------

    def _visit(self, kind: str, pointers, mask, values=None) -> np.ndarray:
        """Judge the lanes of one memory operation; returns which of them are legal."""
        lanes = np.flatnonzero(mask.data)
        legal = np.zeros(mask.data.size, bool)
        offsets = pointers.data.ravel()[lanes].astype(np.int64) - self.memory.base
        slabs = offsets // self.memory.slab_bytes
        for slab in np.unique(slabs):
            mine = slabs == slab
            region = self.memory.region_of(int(slab))
            if region is None:
                self._report("out_of_bounds_" + ("read" if kind == "read" else "write"),
                             f"{len(mine)} addresses belong to no tensor at all",
                             "the pointer that this address is computed from")
                continue
            elements, inside = self._elements(kind, region, pointers, offsets[mine] + self.memory.base)
            legal[lanes[mine]] = inside
            data = (
                None if values is None else np.broadcast_to(values.data, mask.data.shape).ravel()[lanes[mine]][inside]
            )
            self._record(kind, region, elements[inside], data)
        return legal.reshape(mask.data.shape)

    def _elements(self, kind: str, region: Region, pointers, addresses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The element of `region` at each address, and whether there is one."""
        width = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        positions, rest = np.divmod(addresses - region.start, region.itemsize)
        span = len(region.owner)
        inside = (positions >= 0) & (positions < span) & (rest == 0) & (width == region.itemsize)
        elements = np.where(inside, region.owner[np.clip(positions, 0, span - 1)], -1)
        inside &= elements >= 0
        if not inside.all():
            self._report_outside(kind, region, positions[~inside], width)
        return elements, inside

    def _record(self, kind: str, region: Region, elements: np.ndarray, values: np.ndarray | None) -> None:
        """Count traffic and look for races: within the operation, then against other programs."""
        use, unique = self.uses[region.name], np.unique(elements)
        if kind == "write" and len(unique) < len(elements):
            self._check_lanes(region, elements, values)
        if kind == "read":
            use.loaded += len(unique)
            use.touched[unique] = True
        else:
            use.stored += len(unique)
            use.atomic |= kind == "atomic"
            use.line_of_write[unique] = self._line()[1]
            if not region.is_output and len(unique):
                self._report(
                    "input_changed",
                    f"program {show(self.program)} writes to {region.coordinate(unique[0])}, an input",
                    "which pointer this store starts from; inputs must stay as they are",
                )
        self._check_race(kind, region, unique)

    def _check_race(self, kind: str, region: Region, unique: np.ndarray) -> None:
        me = int(np.ravel_multi_index(self._program, self._shape))
        conflict = self.uses[region.name].races.access(kind, unique, me)
        if conflict:
            element, other, how = conflict
            verb = {"read": "reads", "write": "writes", "atomic": "updates"}[kind]
            self._report("race", f"program {show(self.program)} {verb} {region.coordinate(element)}, "
                         f"and program {show(self.program_name(other))} {how} it too",
                         "which program owns this element; programs run in any order and never wait for each other")

    def _check_lanes(self, region: Region, elements: np.ndarray, values: np.ndarray) -> None:
        order = np.argsort(elements, kind="stable")
        same = elements[order][1:] == elements[order][:-1]
        bits = np.ascontiguousarray(values[order]).view(f"u{values.dtype.itemsize}")
        clash = np.flatnonzero(same & (bits[1:] != bits[:-1]))
        if clash.size:
            self._report("race", f"two lanes of one store in program {show(self.program)} write different values to "
                         f"{region.coordinate(elements[order][clash[0]])}", "the offsets of this store: they repeat")

    # --- reports ---------------------------------------------------------------------------------

    @property
    def program(self) -> tuple[int, ...]:
        """The program ids of the program that runs now, one for each axis of the grid."""
        return self._program[:len(self.grid)]

    def program_name(self, linear: int) -> tuple[int, ...]:
        return tuple(map(int, np.unravel_index(linear, self._shape)))[:len(self.grid)]

    def _line(self) -> tuple[str, int]:
        """File and line of the reader's kernel that is running now."""
        frame = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename not in self.files:
            frame = frame.f_back
        return (frame.f_code.co_filename, frame.f_lineno) if frame else ("", 0)

    def code_at(self, file: str, line: int) -> str:
        lines = self.files[file].text.splitlines() if file in self.files else []
        return lines[line - 1].strip() if 0 < line <= len(lines) else ""

    def _report_outside(self, kind: str, region: Region, positions: np.ndarray, width: int) -> None:
        verb, side = ("reads", "read") if kind == "read" else ("writes", "write")
        if width != region.itemsize:
            text = f"accesses {region.name}, {region.itemsize} bytes an element, as {width}-byte elements"
            self._report(f"out_of_bounds_{side}", f"program {show(self.program)} {text}", "the cast of this pointer")
            return
        shape = "x".join(map(str, region.tensor.shape))
        at = f"{region.name}_ptr + {positions[0]}"
        padding = 0 <= positions[0] < len(region.owner)
        where = (f"in the padding of {region.name} ({shape}, strides {region.tensor.stride()})" if padding
                 else f"outside of {region.name} ({shape}, positions 0 to {len(region.owner) - 1})")
        self._report(
            f"out_of_bounds_{side}",
            f"program {show(self.program)} {verb} {at}, {where}; {len(positions)} such lanes in this operation",
            f"the offsets: are they made of {region.name}'s own strides? Then the mask of this line" if padding
            else "the mask of this line, and the offsets it guards",
        )

    def _report(self, kind: str, message: str, look_at: str) -> None:
        file, line = self._line()
        if (kind, file, line) in self._reported:
            return
        self._reported.add((kind, file, line))
        self.findings.append(Finding(kind, message, look_at, line or None, self.code_at(file, line), self.program))
        if len(self.findings) >= _MOST_FINDINGS:
            raise StopKernel

    def traffic(self, budgets: dict[str, int]) -> tuple[Traffic, ...]:
        """What was loaded and stored, tensor by tensor."""
        return tuple(self._traffic_of(region, budgets.get(region.name)) for region in self.memory.regions)

    def _traffic_of(self, region: Region, budget: int | None) -> Traffic:
        use = self.uses[region.name]
        written = int(use.races.written().sum())
        return Traffic(region.name, use.loaded, int(use.touched.sum()), use.stored, written, region.itemsize, budget,
                       None if use.atomic else int(_STORE_SLACK * written))


def show(program: tuple[int, ...]) -> str:
    """Program ids as a reader says them: 3, or (3, 1)."""
    return str(program[0]) if len(program) == 1 else str(program)


def _with(mask, legal: np.ndarray):
    """A mask handle that also leaves out the illegal lanes."""
    return mask if legal.all() else type(mask)(mask.data & legal, mask.dtype)


def _mended(patch: Callable) -> Callable:
    """Triton 3.6 makes a loop bound of an array with one element by int(), which NumPy 2.4 refuses."""
    def patch_and_mend(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))
    return patch_and_mend


def _tf32(values: np.ndarray) -> np.ndarray:
    """Float32 rounded to TF32: 10 of the 23 bits after the point are kept."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def _as_handle(mask, pointers):
    """Block pointers hand over their mask as a bare array."""
    return type(pointers)(mask, pointers.dtype) if isinstance(mask, np.ndarray) else mask


def _finite(dtype: np.dtype) -> tuple[float, float]:
    return float(np.finfo(dtype).min), float(np.finfo(dtype).max)
