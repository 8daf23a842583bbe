"""When was who busy, and when not: strips of work on one time axis, with the gaps between shaded and counted.

    GPU, one by one: 4 pieces, 3 gaps, idle 60 %
    ██░░░░░███░░░░██░░░░██          blue: busy    red: idle between two pieces of work

For a profiler's trace as for a computed timeline. Used by notebook 14.
"""

from collections.abc import Iterable, Mapping

from matplotlib.figure import Figure

from aiinfra.lab import style
from aiinfra.perf import gaps

Span = tuple[float, float]
IDLE = "#F0B8A0"
_SCALES = {"µs": 1e6, "ms": 1e3, "s": 1.0}


def lanes(rows: Mapping[str, Iterable[Span]], unit: str = "ms", length: float | None = None, note: str = "",
          edge: str = "#7FB8DE") -> Figure:
    """One strip for each of `rows`: title -> spans (start, end) in seconds, in any order; overlapping ones count once.

    Each strip begins with its first span and shows `length` seconds of it; None: every strip shows the same time,
    from the first span of all to the last. `note` goes under the axis. Raises ValueError for a row without spans.
    """
    merged = {title: merge(spans) for title, spans in rows.items()}
    if empty := [title for title, spans in merged.items() if not spans]:
        raise ValueError(f"{empty[0]!r} has no spans: there is nothing to draw.")
    fig, axes = style.plt.subplots(len(merged), 1, figsize=(7, 0.6 + 0.85 * len(merged)), layout="constrained",
                                   sharex=True, squeeze=False)
    first, last = min(s[0][0] for s in merged.values()), max(s[-1][1] for s in merged.values())
    for ax, (title, spans) in zip(axes[:, 0], merged.items()):
        begin, end = (first, last) if length is None else (spans[0][0], spans[0][0] + length)
        _strip(ax, title, [(max(b, begin) - begin, min(e, end) - begin) for b, e in spans if b < end and e > begin],
               _SCALES[unit], edge)
        ax.set_xlim(0, _SCALES[unit] * (end - begin))
    axes[-1, 0].set_xlabel(f"time [{unit}]" + (f"; {note}" if note else ""))
    style.plt.close(fig)                  # shown once, as the cell's result
    return fig


def merge(spans: Iterable[Span]) -> list[Span]:
    """The spans in order, those that overlap made one; those that only touch stay apart."""
    out: list[Span] = []
    for start, end in sorted(spans):
        if out and start < out[-1][1] - 1e-12:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return out


def _strip(ax, title: str, spans: list[Span], scale: float, edge: str) -> None:
    idle = gaps(spans)
    whole = spans[-1][1] - spans[0][0]
    for pieces, colour in ((idle, IDLE), (spans, style.MEASURED)):
        ax.broken_barh([(scale * b, scale * (e - b)) for b, e in pieces], (0, 1), color=colour, ec=edge, lw=0.3)
    share = 100 * sum(e - b for b, e in idle) / whole if whole else 0.0
    count = f"{len(spans)} piece{'s' if len(spans) > 1 else ''} of work, {len(idle)} gap{'s' if len(idle) != 1 else ''}"
    ax.set_title(f"{title}: {count}, idle {share:.0f} %", fontsize=10, pad=4, loc="left")
    ax.set(yticks=[], ylim=(0, 1))
    ax.grid(False)
