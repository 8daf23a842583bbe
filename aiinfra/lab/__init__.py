"""AT THE BENCH: the machinery all notebooks share. Only notebooks and puzzles import it.

    start ──► predict ──► build ──► measure ──► compare ──► exercise ──► check / hint ──► progress
                 │                                 │                          │
                 └──── the reader's data folder (store.py): one small JSON file a record ────┘

Everything here returns an object that a notebook shows when it is the LAST line of a cell,
and that also reads on a code host, where no kernel runs. Nothing breaks "Run All": no guess,
no widget, an unsolved exercise and a read-only data folder are all ordinary answers.

How a page is written, with its judges, solutions and known-wrong answers: notebooks/exercises/README.md.
"""

from aiinfra.lab import style
from aiinfra.lab.course import progress
from aiinfra.lab.guess import compare, predict
from aiinfra.lab.hints import hint
from aiinfra.lab.sliders import explore, slider
from aiinfra.lab.source import data_file, recorded, show_source
from aiinfra.lab.start import start
from aiinfra.lab.verdict import check

__all__ = ["check", "compare", "data_file", "explore", "hint", "predict", "progress", "recorded",
           "show_source", "slider", "start", "style"]
