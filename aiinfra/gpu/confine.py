"""Somebody else's code in a copy of this process: what it inherits, what it may take, and what it leaves
behind.

    with process.fork:   confine(keep, printed, memory_bytes)    only then the code
    around it:           adopt_orphans() … end_children()        whoever it started ends with it

The copy keeps one file of ours, a channel; its own prints go to a file. It cannot fill the memory or the
disk, and it ends when its parent does. This is no sandbox: it runs as the same user, who may read and write
what that user may. Linux only, as Triton is; the judge of the puzzles confines kernels with it.
"""

import ctypes
import os
import resource
import signal
import time
from pathlib import Path

_DIE_WITH_PARENT, _BE_DUMPABLE, _ADOPT_ORPHANS = 1, 4, 36        # prctl(2)
_STANDARD_FILES = 3                             # stdin, stdout, stderr
_MOST_FILES = 1 << 16
_MOST_WRITTEN = 64 << 20                        # bytes of one file
_ROUNDS = 200                                   # of killing those who start others while they are killed
_ROUND_SECONDS = 0.005


def confine(keep: int, printed: Path, memory_bytes: int | None) -> int:
    """In a fresh fork: keep one file number and lose all others. Returns its new number.

    What is printed goes to `printed`; asking for more than `memory_bytes` beyond what there is now raises
    MemoryError, and no file grows large. With None, memory and files have no limit.
    """
    die_with_parent()
    nothing = os.open(os.devnull, os.O_RDONLY)
    out = os.open(printed, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    spare = os.dup(keep)
    for number, kept in enumerate((nothing, out, out)):
        os.dup2(kept, number)
    kept = os.dup2(spare, _STANDARD_FILES)
    os.closerange(kept + 1, _MOST_FILES)
    _limit(resource.RLIMIT_CORE, 0)
    if memory_bytes is not None:
        _limit(resource.RLIMIT_AS, _address_space() + memory_bytes)
        _limit(resource.RLIMIT_FSIZE, _MOST_WRITTEN)
    return kept


def die_with_parent() -> None:
    """In a fork: end when its parent does, whatever ends that."""
    _control(_DIE_WITH_PARENT, signal.SIGKILL)


def adopt_orphans() -> None:
    """From now on, a process whose parent ends becomes a child of this one, if it descends from it.

    Nor can a process of the same user look into this one's memory, unless it is the system's administrator.
    """
    _control(_ADOPT_ORPHANS, 1)
    _control(_BE_DUMPABLE, 0)


def end_children() -> None:
    """Kill every child of this process, with their children, whom it adopts."""
    for _ in range(_ROUNDS):
        children = _children()
        if not children:
            return
        for child in children:
            os.kill(child, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)
        time.sleep(_ROUND_SECONDS)                  # an orphan needs a moment to be ours


def _children() -> list[int]:
    """The processes whose parent is this one."""
    here = str(os.getpid())
    return [int(file.parent.name) for file in Path("/proc").glob("[0-9]*/stat") if _parent(file) == here]


def _parent(file: Path) -> str:
    """The second number in /proc/<process>/stat after the name, which may hold anything; "" if it is gone."""
    try:
        _, _, rest = file.read_text().rpartition(")")
    except OSError:
        return ""
    return rest.split()[1]


def _address_space() -> int:
    """Bytes of addresses that this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _limit(what: int, most: int) -> None:
    """Lower a limit, or leave it where it is lower."""
    _, hard = resource.getrlimit(what)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(what, (most, most))


def _control(what: int, value: int) -> None:
    ctypes.CDLL(None).prctl(what, value, 0, 0, 0)
