"""Every byte of tensors that lives, and when: a recorder that sees each operation's results, on any device.

    operation ──► its results' storages ──► known already? a view, or a tied weight: counted once
                                       └──► new: add its bytes now, take them off when it is freed

A storage is the memory; tensors are windows on it. What an operation uses inside itself and frees before it
returns is not seen, nor is what the allocator keeps in reserve. Notebook 05.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from aiinfra.perf.memory import TEMPORARY, MemoryMoment


class OutOfBudget(MemoryError):
    """More would live than the recorder was told to allow: what a GPU says when its memory is full."""

    def __init__(self, asked: int, living: int, limit: int, phase: str, operation: str) -> None:
        where = f"{operation} in {phase}" if phase else operation
        super().__init__(
            f"out of memory: {where} asks for {asked / 1e6:,.1f} MB; {living / 1e6:,.1f} MB of "
            f"{limit / 1e6:,.1f} MB are in use. Fewer rows at once, activation checkpointing or 16 bits need "
            "less; `python -m aiinfra plan memory` tells how much.")


class MemoryRecorder(TorchDispatchMode):
    """Use as a context; `moments` has an entry for each operation that changed what lives.

    A new storage is "temporary" until `mark` gives it another kind. limit: bytes that may live at once;
    the operation that goes beyond raises OutOfBudget.
    """

    def __init__(self, limit: int | None = None) -> None:
        super().__init__()
        self.limit = limit
        self.moments: list[MemoryMoment] = []
        self._phase = ""
        self._kinds: dict[int, str] = {}               # by number of the storage
        self._numbers: dict[int, int] = {}             # by id of a living storage
        self._births: dict[int, tuple[int, int]] = {}  # moments before a living storage, and its bytes
        self._bytes: Counter[str] = Counter()
        self._made = 0

    def __torch_dispatch__(self, operation: Callable[..., Any], types: Any, args: tuple = (),
                           kwargs: dict | None = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        before = self._bytes.total()
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._see(leaf)
        living = self._bytes.total()
        if self.limit is not None and living > self.limit:
            raise OutOfBudget(
                asked=living - before,
                living=before,
                limit=self.limit,
                phase=self._phase,
                operation=str(operation))
        self._note(str(operation))
        return result

    def mark(self, tensors: Iterator[Tensor] | list[Tensor], kind: str) -> None:
        """Call the storages of these `kind` from now on."""
        for tensor in tensors:
            number = self._see(tensor)
            self._move(number, tensor.untyped_storage().nbytes(), kind)

    def mark_temporary(self, kind: str) -> None:
        """Call everything that is temporary now, and still lives, `kind`, from its birth on: only now is it
        known that it was to stay."""
        for number, known in self._kinds.items():
            if known == TEMPORARY:
                self._kinds[number] = kind
                self._retell(number, kind)
        self._bytes[kind] += self._bytes.pop(TEMPORARY, 0)

    def _retell(self, number: int, kind: str) -> None:
        """Correct the moments since a storage was born."""
        birth, nbytes = self._births[number]
        for moment in self.moments[birth:]:
            moment.by_kind[TEMPORARY] -= nbytes
            moment.by_kind[kind] = moment.by_kind.get(kind, 0) + nbytes

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Moments within belong to phase `name`."""
        before = self._phase
        self._phase = name
        try:
            yield
        finally:
            self._note("end of phase")
            self._phase = before

    @property
    def peak(self) -> MemoryMoment:
        """The moment in which most lived."""
        return max(self.moments, key=lambda moment: moment.nbytes)

    def peak_of(self, phase: str) -> MemoryMoment:
        """The moment of that phase in which most lived."""
        return max((one for one in self.moments if one.phase == phase), key=lambda moment: moment.nbytes)

    def _see(self, tensor: Tensor) -> int:
        """The number of a tensor's storage, which is counted if it is new."""
        storage = tensor.untyped_storage()
        if id(storage) not in self._numbers:
            self._made += 1
            self._numbers[id(storage)] = self._made
            self._kinds[self._made] = TEMPORARY
            self._births[self._made] = len(self.moments), storage.nbytes()
            self._bytes[TEMPORARY] += storage.nbytes()
            weakref.finalize(storage, self._free, id(storage), storage.nbytes())
        return self._numbers[id(storage)]

    def _free(self, identity: int, nbytes: int) -> None:
        number = self._numbers.pop(identity)
        del self._births[number]
        self._bytes[self._kinds.pop(number)] -= nbytes

    def _move(self, number: int, nbytes: int, kind: str) -> None:
        self._bytes[self._kinds[number]] -= nbytes
        self._bytes[kind] += nbytes
        self._kinds[number] = kind

    def _note(self, operation: str) -> None:
        living = {kind: nbytes for kind, nbytes in self._bytes.items() if nbytes}
        if not self.moments or living != self.moments[-1].by_kind or operation == "end of phase":
            self.moments.append(MemoryMoment(self._phase, operation, living))


def storage_bytes(tensors: Iterator[Tensor] | list[Tensor]) -> int:
    """Bytes of memory behind these tensors; what is shared counts once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())
