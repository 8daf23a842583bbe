"""AT THE BENCH: the machinery all notebooks share. Only notebooks import it.

    predict ──► build ──► measure ──► compare ──► exercise ──► check / hint ──► progress
      │                                  │                          │
      └───────── the reader's data folder (store.py): one small JSON file a record ─────────┘

Everything here returns an object that a notebook shows when it is the LAST line of a cell,
and that also reads on a code host, where no kernel runs. Nothing breaks "Run All": no guess,
no widget, an unsolved exercise and a read-only data folder are all ordinary answers.

In a notebook's first cell::

    from aiinfra.lab import check, compare, explore, predict, show_source, style
    style.use()                                   # fonts, small sharp PNGs, the colour key as output

The arc::

    predict("01.rate", question="…?", unit="per step", low=1e-3, high=10)     # last line of its cell
    compare("01.rate", bound=2 / 119.7, measured=0.0167)    # one figure; also bound_label=, measured_label=

    explore(draw, rate=(0.001, 0.02, 0.01))       # draw(rate=…) -> Figure; (low, high, start[, step])
    explore(draw, mode=["raw", "scaled"])         # a list is a choice, True/False a tick box
    explore(draw, rate=slider(1e-4, 1, 0.01, log=True, label="learning rate"))
    explore(draw, frame=slider(0, 45, 20, play=True))     # integers; with a button that plays them as a film

    fig, ax = style.axes("age [years]", "height [cm]", "title")       # units in the labels
    ax.plot(x, y, color=style.MEASURED)           # PREDICTION orange · BOUND grey · MEASURED blue

    show_source(torch.nn.Linear.forward)          # the real file, with lines, and a link if it is ours
    show_source("aiinfra/device.py", around="def data_dir", context=4)
    data_file("growth_medians.csv")               # path of a file in data/, from any working folder

An exercise is a cell tagged `exercise:01.weighted_fit` that ends in its check::

    def weighted_fit(x, y, w):
        ...                                       # the stub: an empty body, None, ... or NotImplementedError
    check("01.weighted_fit", weighted_fit)        # a Verdict: .status, .passed, .message

Its judge and three hints (direction, idea, nearly code) live in `exercises/nb01.py`::

    @exercise("01.weighted_fit", hints=("…", "…", "…"))
    def weighted_fit(fit):                        # receives the learner's answer
        close(fit(x, y, w), want, "a and b")      # raises Wrong with a message for the learner
        require(condition, "message")             # the same for anything else
        return "what the pass shows"              # optional praise with a number in it

Solutions: `notebooks/solutions/01_fit_a_line.py`, sections `# %% 01.weighted_fit`, each the full
replacement of the exercise cell. Known-wrong answers: `notebooks/wrong/01_fit_a_line.py`,
sections `# %% 01.weighted_fit | words of the message`, at least two an exercise, with an
optional first section `# %% setup` (imports and data; used for solution and stub too).

Before a commit: `python aiinfra/lab/rerun.py notebooks/01_fit_a_line.ipynb` runs the page with
an empty data folder and takes out what needs a live kernel; then `pytest tests/notebooks -k 01_fit`.
"""

from aiinfra.lab.board import progress
from aiinfra.lab.hints import hint
from aiinfra.lab.sliders import explore, slider
from aiinfra.lab.guess import compare, predict
from aiinfra.lab.source import data_file, show_source
from aiinfra.lab.verdict import check
from aiinfra.lab import style

__all__ = ["check", "compare", "data_file", "explore", "hint", "predict", "progress",
           "show_source", "slider", "style"]
