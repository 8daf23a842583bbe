"""What a load test has measured, as a picture: the knee of a sweep, or the waits of one run."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from aiinfra.bench.measured import KEEPS_UP, Measured
from aiinfra.bench.serve import knee_row
from aiinfra.bench.waits import WAITS, mean_waits
from aiinfra.files import replace_whole

_MEASURED, _LIMIT, _OTHER = "#0072B2", "#6B6B6B", "#AA4499"      # the workbook's: lab/style.py


def plot(runs: Sequence[Measured], path: Path) -> None:
    """Draw the runs into `path` (PNG, SVG or PDF, by its ending), whole or not at all. Raises ValueError if
    nothing was answered, or for an ending that is none of these."""
    told = [run for run in runs if run.answered]
    if not told:
        raise ValueError("no request was answered: there is nothing to draw.")
    kind = path.suffix.lstrip(".").lower()
    if kind not in ("png", "svg", "pdf"):
        raise ValueError(f"{path.name} is no picture: its name must end in .png, .svg or .pdf.")
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    if len(told) > 1:
        _sweep(left, right, told)
    else:
        _one_run(left, right, told[0])
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    replace_whole(path, lambda temporary: figure.savefig(temporary, format=kind, dpi=150))


def _sweep(left: Axes, right: Axes, runs: list[Measured]) -> None:
    runs = sorted(runs, key=lambda run: run.rate)
    rates = [run.rate for run in runs]
    left.plot(rates, [100 * run.in_time for run in runs], "o-", color=_MEASURED)
    left.axhline(100 * KEEPS_UP, color=_LIMIT, linestyle="--")
    left.set(xlabel="requests a second, offered", ylabel="in time, %", ylim=(-3, 103), xscale="log")
    left.set_title(f"in time: {runs[0].target}", fontsize=9)
    for q, style in ((50, "o-"), (99, "^-")):
        first = [run.figures()[f"first_token_p{q}"] for run in runs]
        right.plot(rates, first, style, color=_MEASURED, label=f"first token, P{q}")
    right.axhline(runs[0].target.ttft_seconds, color=_LIMIT, linestyle="--", label="target")
    right.set(xlabel="requests a second, offered", ylabel="seconds", xscale="log", yscale="log")
    right.legend(frameon=False, fontsize=9)
    knee = knee_row(runs).ours
    for axes in (left, right):
        axes.set_xticks(rates, [f"{rate:.3g}" for rate in rates], fontsize=7)
        axes.minorticks_off()
        if knee is not None:
            axes.axvline(knee, color=_OTHER)
    if knee is not None:
        left.annotate(f" knee: {knee:.3g}/s", (knee, 5), color=_OTHER, fontsize=9)


def _one_run(left: Axes, right: Axes, run: Measured) -> None:
    target = run.target
    first = WAITS["first token"](run.answered)
    token = mean_waits(run.answered)
    for axes, seconds, limit in ((left, first, target.ttft_seconds), (right, token, target.tpot_seconds)):
        shares = [(i + 1) / len(seconds) for i in range(len(seconds))]
        axes.plot(sorted(seconds), shares, color=_MEASURED, drawstyle="steps-post")
        axes.axvline(limit, color=_LIMIT, linestyle="--", label="target")
        axes.set(ylabel="share of the answers", ylim=(0, 1.02), xlim=(0, None))
        axes.legend(frameon=False, fontsize=9, loc="lower right")
    left.set(xlabel="seconds to the first token", title=run.said)
    right.set(xlabel="seconds a token, mean of each answer", title=f"{run.in_time:.0%} in time")
