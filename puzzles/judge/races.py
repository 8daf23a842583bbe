"""Races: two programs, one element, and at least one plain write.

Programs of a launch run in any order, at the same time, and never wait for each other. So

    write + write   two programs store to one element, even the same value
    read + write    one program reads what another stores

are errors whatever came out this time. Atomic operations may meet each other, not plain accesses.
For every element two different programs are remembered per kind of access: enough to find one
that differs from any third.
"""

import numpy as np

_CONFLICTS = {"read": ("write", "atomic"), "write": ("write", "read", "atomic"), "atomic": ("write", "read")}
_WORDS = {"read": "reads", "write": "writes", "atomic": "updates atomically"}


class _Seen:
    """Up to two different programs per element."""

    def __init__(self, elements: int):
        self.first = np.full(elements, -1, np.int64)
        self.second = np.full(elements, -1, np.int64)

    def other(self, at: np.ndarray, program: int) -> np.ndarray:
        """A program other than `program` that touched each element, or -1."""
        first = self.first[at]
        return np.where((first >= 0) & (first != program), first, self.second[at])

    def add(self, at: np.ndarray, program: int) -> None:
        first, second = self.first[at], self.second[at]
        self.second[at] = np.where((first >= 0) & (first != program) & (second < 0), program, second)
        self.first[at] = np.where(first < 0, program, first)


class RaceDetector:
    """Who touched each element of one tensor, and the first conflict of each access."""

    def __init__(self, elements: int):
        self._seen = {kind: _Seen(elements) for kind in _CONFLICTS}

    def access(self, kind: str, at: np.ndarray, program: int) -> tuple[int, int, str] | None:
        """Record an access to elements `at` (no duplicates). Returns (element, other program, how) or None."""
        conflict = None
        for other_kind in _CONFLICTS[kind]:
            others = self._seen[other_kind].other(at, program)
            hits = np.flatnonzero(others >= 0)
            if hits.size and conflict is None:
                conflict = int(at[hits[0]]), int(others[hits[0]]), _WORDS[other_kind]
        self._seen[kind].add(at, program)
        return conflict

    def written(self) -> np.ndarray:
        """Which elements any program wrote, plainly or atomically."""
        return (self._seen["write"].first >= 0) | (self._seen["atomic"].first >= 0)

    def writer(self, element: int) -> int:
        """The program that wrote an element, or -1."""
        return int(max(self._seen["write"].first[element], self._seen["atomic"].first[element]))
