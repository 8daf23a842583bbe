"""How a recommender learns: its loss and its share of right answers, between the baselines and the optimum.

    left   loss, falling to the rules' entropy        right   right answers, rising to the optimum

A `score` is what train.recommender.evaluate returns; only its numbers are read. Notebook 10b.
"""

from collections.abc import Sequence
from typing import Protocol

from matplotlib.figure import Figure

from aiinfra.lab import style


class Baselines(Protocol):
    """The numbers that the lines beside the curves stand at."""

    popular: float
    repeat: float
    best: float
    best_loss: float


def draw_learning(curve: Sequence[tuple[int, float, float]], score: Baselines, steps: int) -> Figure:
    """The curve so far, (step, loss in nats, accuracy from 0 to 1) a point, of `steps` in all; for
    `display(…).update`."""
    step, loss, accuracy = zip(*curve)
    fig, (left, right) = style.axes("step", "", f"step {step[-1]} of {steps}", columns=2)
    left.plot(step, loss, color=style.MEASURED, label="model, on unseen users")
    left.axhline(score.best_loss, color=style.BOUND, ls="--", label="optimum: the rules' entropy")
    percent = [100 * share for share in accuracy]
    right.plot(step, percent, color=style.MEASURED, label="model")
    lines = {"optimum": (score.best, "--"), "repeat the last item": (score.repeat, "-."),
             "popularity": (score.popular, ":")}
    for name, (share, look) in lines.items():
        right.axhline(100 * share, color=style.BOUND, ls=look, label=name)
    left.set(ylabel="loss [nats]", xlim=(0, steps), ylim=(0.8, 4))
    right.set(ylabel="right next items [%]", xlim=(0, steps), ylim=(0, 100))
    left.legend()
    right.legend(loc="center right", bbox_to_anchor=(1, 0.38))
    style.plt.close(fig)                           # shown by who updates a display, and not twice
    return fig
