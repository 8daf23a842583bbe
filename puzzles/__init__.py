"""Triton puzzles, and a judge that can be trusted. Importing this runs nothing.

    from puzzles import check, hint, picture, progress
    check("add_constant", kernel)     a verdict: passed, or what is wrong and on which line
    hint("add_constant")              a direction; again: the idea; again: nearly the code
    picture("add_constant")           the tiling
    progress()                        the board

    specs/         the puzzles: puzzle.py and tensors.py say what one is, statement.py how it reads
    sheets/        the notebooks where they are solved
    solutions/     one answer each      wrong/      at least four wrong answers each, and how they are caught
    judge/         what happens to a kernel
    python -m puzzles                   the same from a terminal

The life of an answer, from `check("rope", kernel)` on:
 1. checking.py finds the puzzle (catalogue.py), and source.py takes the kernel out of the notebook as a
    KernelText: its own text, its helpers' and its constants.
 2. grid.py asks how many programs each case launches; what cannot be judged ends here, with one sentence.
 3. The text goes to a warm process (judge/process.py, judge/service.py), which forks, and only then reads the
    Job (judge/job.py) with the seed.
 4. The fork is the learner's process (judge/child.py): it makes the kernel again from its text (rebuild.py);
    if it crashes or never ends, only the fork is lost. It holds no input and no answer (judge/runner.py).
 5. judge/interpret.py runs every case, small to large, in watched memory (judge/memory.py): each load, store
    and atomic comes out of the fork (judge/hooks.py, judge/memory_server.py), and judge/accesses.py says
    whether it is legal or races.
 6. judge/values.py compares the outputs with the answer in float64, as far as rounding explains
    (judge/tolerance.py), and the Verdict (judge/verdict.py) goes back through the pipe.
 7. If it passed, a second process, which does not interpret, compiles the same text for three GPUs
    (judge/compiled.py) and runs it on one if there is one (judge/gpu.py).
 8. board.py records the try, and render.py shows the verdict: what is wrong, on which of your lines,
    where to look.
Notebook 09 opens the door.
"""

from importlib import import_module
from typing import Any

__all__ = ["check", "hint", "picture", "progress"]
_HOMES = {
    "check": "puzzles.checking",
    "hint": "puzzles.hints",
    "picture": "puzzles.hints",
    "progress": "puzzles.board",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'puzzles' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
