"""hint(): help in three steps.

    hint("01.shards")     direction ──► idea ──► nearly code        each call one step further
"""

from dataclasses import dataclass

from aiinfra.lab import exercise, store
from aiinfra.lab.markup import Rich

_LAST = "That was the last one. A full answer is in notebooks/solutions/."


@dataclass(frozen=True, repr=False)
class Hint(Rich):
    """One hint: `level` of 3, its text, and a small line under it."""

    name: str
    level: int
    text: str
    foot: str = ""
    tone = "note"

    @property
    def head(self) -> str:
        """The first line."""
        return f"Hint {self.level} of 3"

    @property
    def body(self) -> str:
        """What stands under it."""
        return self.text


def hint(name: str, level: int | None = None) -> Hint:
    """The next hint for an exercise, or that of `level` 1, 2 or 3. After the third, the third again.

    Raises ValueError for a name or a level that does not exist.
    """
    hints = exercise.find(name).hints
    seen = int(store.read("hints", name).get("seen", 0))
    if level is None:
        level = min(seen + 1, 3)
    if level not in (1, 2, 3):
        raise ValueError(f"level={level!r}: there are hints 1, 2 and 3.")
    store.write("hints", name, {"seen": max(seen, level)})
    foot = _LAST if level == 3 else ""
    return Hint(name=name, level=level, text=hints[level - 1], foot=foot)
