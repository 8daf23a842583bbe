"""When was who busy, and when not: strips of work on one time axis, with the gaps between shaded and counted.

    GPU, one by one: 4 pieces, 3 gaps, idle 60 %
    ██░░░░░███░░░░██░░░░██          full: busy    pale: idle between two pieces of work

For a profiler's trace as for a computed timeline. Used by notebook 14.
"""

from collections.abc import Iterable, Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aiinfra.errors import plural
from aiinfra.lab import style
from aiinfra.perf import gaps

Span = tuple[float, float]
_SCALES = {"µs": 1e6, "ms": 1e3, "s": 1.0}
_EDGE = "#7FB8DE"                         # between two pieces of work that touch


def lanes(rows: Mapping[str, Iterable[Span]], unit: str = "ms", length: float | None = None, note: str = "",
          edge: str = _EDGE) -> Figure:
    """One strip for each of `rows`: title -> spans (start, end) in seconds, in any order.

    Overlapping spans count once. Each strip begins with its first span and shows `length` seconds of it;
    None: every strip shows the same time, from the first span of all to the last. `note` goes under the axis.
    Raises ValueError for a row without spans.
    """
    merged = {title: merge(spans) for title, spans in rows.items()}
    for title, spans in merged.items():
        if not spans:
            raise ValueError(f"{title!r} has no spans: there is nothing to draw.")
    size = (7, 0.6 + 0.85 * len(merged))
    fig, axes = style.plt.subplots(
        len(merged), 1, figsize=size, layout="constrained", sharex=True, squeeze=False)
    shared = _window(merged.values())
    scale = _SCALES[unit]
    for ax, (title, spans) in zip(axes[:, 0], merged.items()):
        begin, end = shared
        if length is not None:
            begin, _ = spans[0]
            end = begin + length
        shown = []
        for start, stop in _clip(spans, begin, end):
            from_zero = scale * (start - begin), scale * (stop - begin)
            shown.append(from_zero)
        _strip(ax, title, shown, edge)
        width = scale * (end - begin)
        ax.set_xlim(0, width)
    label = f"time [{unit}]"
    axes[-1, 0].set_xlabel(f"{label}; {note}" if note else label)
    style.plt.close(fig)                  # shown once, as the cell's result
    return fig


def merge(spans: Iterable[Span]) -> list[Span]:
    """The spans in order, those that overlap made one; those that only touch stay apart."""
    out: list[Span] = []
    for start, end in sorted(spans):
        if out and start < out[-1][1] - 1e-12:
            begin, until = out.pop()
            start, end = begin, max(end, until)
        out.append((start, end))
    return out


def _window(rows: Iterable[list[Span]]) -> Span:
    """From the first span of all rows to the last."""
    spans = [span for row in rows for span in row]
    return min(start for start, _ in spans), max(end for _, end in spans)


def _clip(spans: list[Span], begin: float, end: float) -> list[Span]:
    """What of the spans lies between `begin` and `end`."""
    inside = [(start, stop) for start, stop in spans if start < end and stop > begin]
    return [(max(start, begin), min(stop, end)) for start, stop in inside]


def _strip(ax: Axes, title: str, spans: list[Span], edge: str) -> None:
    idle = gaps(spans)
    for pieces, colour in ((idle, style.PALE_WASTE), (spans, style.MEASURED)):
        bars = [(start, end - start) for start, end in pieces]
        ax.broken_barh(bars, (0, 1), color=colour, ec=edge, lw=0.3)
    whole = spans[-1][1] - spans[0][0]
    lost = sum(end - start for start, end in idle)
    share = 100 * lost / whole if whole else 0.0
    count = f"{plural(len(spans), 'piece')} of work, {plural(len(idle), 'gap')}"
    ax.set_title(f"{title}: {count}, idle {share:.0f} %", fontsize=10, pad=4, loc="left")
    ax.set(yticks=[], ylim=(0, 1))
    ax.grid(False)
