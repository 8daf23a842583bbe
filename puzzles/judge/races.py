"""Races: two programs, one element, and at least one plain write.

Programs of a launch run in any order, at the same time, and never wait for each other. So

    write + write   two programs store to one element, even the same value
    read + write    one program reads what another stores

are errors whatever came out this time. Atomic operations may meet each other, not plain accesses.
For every element two different programs are remembered per kind of access: enough to find one
that differs from any third.
"""

import numpy as np

_CONFLICTS = {
    "read": ("write", "atomic"),
    "write": ("write", "read", "atomic"),
    "atomic": ("write", "read"),
}
_WORDS = {"read": "reads", "write": "writes", "atomic": "updates atomically"}
NOBODY = -1


class _Seen:
    """Up to two different programs per element."""

    def __init__(self, elements: int):
        self.first = np.full(elements, NOBODY, np.int64)
        self.second = np.full(elements, NOBODY, np.int64)

    def other(self, at: np.ndarray, program: int) -> np.ndarray:
        """A program other than `program` that touched each element, or -1."""
        first = self.first[at]
        first_is_other = (first >= 0) & (first != program)
        return np.where(first_is_other, first, self.second[at])

    def add(self, at: np.ndarray, program: int) -> None:
        """Remember that `program` touched each element."""
        first, second = self.first[at], self.second[at]
        is_second = (first >= 0) & (first != program) & (second < 0)
        self.second[at] = np.where(is_second, program, second)
        self.first[at] = np.where(first < 0, program, first)


class RaceDetector:
    """Who touched each element of one tensor, and the first conflict of each access."""

    def __init__(self, elements: int):
        self._seen = {kind: _Seen(elements) for kind in _CONFLICTS}

    def access(self, kind: str, at: np.ndarray, program: int) -> tuple[int, int, str] | None:
        """Record an access to elements `at` (no duplicates). Returns (element, other program, how) or None.
        """
        conflict = None
        for other_kind in _CONFLICTS[kind]:
            others = self._seen[other_kind].other(at, program)
            hits = np.flatnonzero(others >= 0)
            if hits.size and conflict is None:
                hit = hits[0]
                conflict = int(at[hit]), int(others[hit]), _WORDS[other_kind]
        self._seen[kind].add(at, program)
        return conflict

    def met_atomically(self) -> bool:
        """Whether two programs updated one element."""
        return bool((self._seen["atomic"].second >= 0).any())

    def written(self) -> np.ndarray:
        """Which elements any program wrote, plainly or atomically."""
        plainly, atomically = self._seen["write"].first, self._seen["atomic"].first
        return (plainly >= 0) | (atomically >= 0)

    def writer(self, element: int) -> int:
        """The program that wrote an element, or NOBODY."""
        plainly, atomically = self._seen["write"].first, self._seen["atomic"].first
        return int(max(plainly[element], atomically[element]))
