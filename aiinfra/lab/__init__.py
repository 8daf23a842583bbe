"""AT THE BENCH: the machinery all notebooks share. Only notebooks and puzzles import it.

    start ──► predict ──► build ──► measure ──► compare ──► exercise ──► check / hint ──► progress
                 │                                 │                          │
                 └──── the reader's data folder (store.py): one small JSON file a record ────┘

Everything here returns an object that a notebook shows when it is the LAST line of a cell,
and that also reads on a code host, where no kernel runs. Nothing breaks "Run All": no guess,
no widget, an unsolved exercise and a read-only data folder are all ordinary answers.

How a page is written, with its judges, solutions and known-wrong answers: notebooks/exercises/README.md.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "check": "verdict",
    "compare": "guess",
    "data_file": "source",
    "explore": "sliders",
    "hint": "hints",
    "on_gpus": "gpus",
    "predict": "guess",
    "progress": "course",
    "recorded": "source",
    "show_source": "source",
    "slider": "sliders",
    "start": "opening",
}
__all__ = [*_HOMES, "style"]


def __getattr__(name: str) -> Any:
    """Load what a page asks for: the puzzles' judge needs the time limit, and no figures."""
    if name == "style":
        return import_module("aiinfra.lab.style")
    if name not in _HOMES:
        raise AttributeError(f"module 'aiinfra.lab' has no attribute {name!r}")
    return getattr(import_module(f"aiinfra.lab.{_HOMES[name]}"), name)
