"""The memory of one launch, which the learner's process can only ask for: every load, store and atomic comes
here.

    hooks.py ──{"do": "read", …} addresses, mask──► MemoryServer ──► accesses.py: legal? raced? counted
             ◄── values ──                                   └────► memory.py, on the legal lanes only

Invariant: no illegal access is carried out. A masked lane without `other=` gets poison (NaN), as a GPU may
give anything. What comes from the other end is checked: a program that has not begun, a type that does not
exist, or a wrong number of bytes is Malformed.
"""

from typing import Any

import numpy as np

from puzzles.judge.accesses import StopKernel, Tracer
from puzzles.judge.wire import Channel, Malformed

_TYPES = {np.dtype(name).name: np.dtype(name) for name in (
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
    "float16", "float32", "float64",
)}
_ADDRESS = np.dtype(np.uint64)
_MASK = np.dtype(bool)
_MOST_LANES = 1 << 20                       # of a Triton block
_ANSWERED = ("read", "atomic", "swap")
Instead = tuple[tuple[str, int], float]     # ((file, line), value)


class MemoryServer:
    """Answers a launch. `poison` is what masked lanes hold; `instead` names a line and what masked lanes hold
    there, whatever its other= says. `stopped` is true once enough is known.
    """

    def __init__(self, channel: Channel, tracer: Tracer, poison: float, instead: Instead | None = None):
        self.tracer = tracer
        self.stopped = False
        self._channel = channel
        self._poison = poison
        self._instead = instead

    def serve(self, request: dict[str, Any], deadline: float) -> dict[str, Any]:
        """Ask for a launch, and serve it until it has ended: the message that says so. Raises what the
        channel raises.
        """
        self._channel.post(request, np.array(self.tracer.order, np.int32))
        while True:
            message, data = self._channel.receive(deadline)
            match message.get("do"):
                case "program":
                    self._next_program()
                case "tested":
                    self.tracer.note_tested_block(*_place(message.get("at")))
                case "read" | "write" | "atomic" | "swap":
                    self._serve_access(_Access(message, data))
                case _:
                    return message

    def _next_program(self) -> None:
        if not self.tracer.next_program():
            raise Malformed("more programs than were launched")

    def _serve_access(self, access: "_Access") -> None:
        if not self.stopped:
            self.tracer.stand_at(access.piece, access.line)
            try:
                self._answer(access, *self._values(access))
            except StopKernel:
                self.stopped = True
            except (RuntimeError, TypeError, ValueError) as error:  # types that Triton's interpreter lacks
                self._answer(access, error=str(error))
        if self.stopped:
            self._answer(access, stop=True)

    def _answer(self, access: "_Access", *values: np.ndarray, **said: Any) -> None:
        """A store waits for no answer."""
        if access.verb in _ANSWERED:
            self._channel.post(said, *values)
            self._channel.flush()

    def _values(self, access: "_Access") -> list[np.ndarray]:
        match access.verb:
            case "read":
                return [self._read(access)]
            case "write":
                self._write(access)
                return []
            case "atomic":
                return [self._atomic(access)]
        return [self._swap(access)]

    def _read(self, access: "_Access") -> np.ndarray:
        legal = self.tracer.visit("read", access.addresses, access.mask, access.dtype.itemsize)
        if access.has_other:
            other = self._guarded(access.lanes(0), access.mask)
        else:
            poison = _poison(self._poison, access.dtype, access.is_float)
            other = np.full(access.count, poison, access.dtype)
            self.tracer.note_unguarded(access.mask)
        return _memory().load(access.addresses, legal, other, access.dtype)

    def _guarded(self, other: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """What masked lanes load: `other`, unless something else is tried on this line."""
        if other.dtype.kind != "f" or mask.all():
            return other
        line = self.tracer.note_guarded(other[~mask][0].item())
        if self._instead is None or self._instead[0] != line:
            return other
        return np.full_like(other, self._instead[1])

    def _write(self, access: "_Access") -> None:
        values = access.lanes(0)
        legal = self.tracer.visit("write", access.addresses, access.mask, access.dtype.itemsize, values)
        _memory().store(access.addresses, values, legal)

    def _atomic(self, access: "_Access") -> np.ndarray:
        memory = _memory()
        operation = memory.RMW_OP.__members__.get(access.operation)
        if operation is None:
            raise Malformed(f"an atomic operation {access.operation!r}")
        legal = self.tracer.visit("atomic", access.addresses, access.mask, access.dtype.itemsize)
        order = memory.MEM_SEMANTIC.RELAXED
        return memory.atomic_rmw(operation, access.addresses, access.lanes(0), legal, order)

    def _swap(self, access: "_Access") -> np.ndarray:
        memory = _memory()
        legal = self.tracer.visit("atomic", access.addresses, access.mask, access.dtype.itemsize)
        if not legal.all():
            raise StopKernel                        # cas takes no mask, so an illegal one cannot be skipped
        values, compare = access.lanes(0), access.lanes(1)
        return memory.atomic_cas(access.addresses, compare, values, memory.MEM_SEMANTIC.RELAXED)


class _Access:
    """One operation as it came, every part checked. Raises Malformed."""

    def __init__(self, message: dict[str, Any], data: bytes):
        self.verb = message["do"]
        self.piece, self.line = _place(message.get("at"))
        self.dtype = _TYPES.get(str(message.get("type")))
        self.is_float = bool(message.get("float"))
        self.has_other = bool(message.get("other"))
        self.operation = str(message.get("operation"))
        self.count = message.get("lanes")
        if self.dtype is None or type(self.count) is not int or not 0 < self.count <= _MOST_LANES:
            raise Malformed(f"an access to {self.count!r} lanes of type {message.get('type')!r}")
        each = _ADDRESS.itemsize + _MASK.itemsize + self._values * self.dtype.itemsize
        if len(data) != self.count * each:
            raise Malformed(f"{len(data)} bytes for {self.count} lanes")
        self._data = data
        self.addresses = np.frombuffer(data, _ADDRESS, self.count)
        mask_bytes = np.frombuffer(data, np.uint8, self.count, self.count * _ADDRESS.itemsize)
        self.mask = mask_bytes != 0

    @property
    def _values(self) -> int:
        """How many values each lane brings."""
        return {"read": int(self.has_other), "write": 1, "atomic": 1, "swap": 2}[self.verb]

    def lanes(self, which: int) -> np.ndarray:
        """The first, or the second, value of each lane."""
        before = _ADDRESS.itemsize + _MASK.itemsize + which * self.dtype.itemsize
        return np.frombuffer(self._data, self.dtype, self.count, self.count * before)


def _place(at: Any) -> tuple[int, int]:
    """Piece and line."""
    if isinstance(at, list) and len(at) == 2 and all(type(part) is int and part >= 0 for part in at):
        return at[0], at[1]
    raise Malformed(f"an access at {at!r}")


def _poison(poison: float, dtype: np.dtype, is_float: bool) -> Any:
    """`poison` in a dtype of NumPy's; something wild where it cannot be said in it."""
    if dtype.kind == "f":
        limits = np.finfo(dtype)
        return dtype.type(np.clip(poison, float(limits.min), float(limits.max)))
    if dtype.kind not in "iu":
        return True
    if is_float:                                # bfloat16 and float8 travel as unsigned integers
        return dtype.type(np.iinfo(dtype).max)
    if poison == 0:
        return dtype.type(0)
    return dtype.type(np.iinfo(dtype).max - 12)


def _memory() -> Any:
    """Triton's own loads and stores at addresses of this process."""
    from triton._C.libtriton import interpreter
    return interpreter
