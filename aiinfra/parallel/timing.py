"""When each action of a schedule happens, if it is known how long each takes; and what that leaves idle.

    a rank   ███ busy ███ .. idle .. ██ busy ██       bubble = idle of all ranks / (ranks · whole time)

A rank starts an action when it has finished the one before and what it needs has come. So busy time is the
same under every schedule, and the bubble is what an order is judged by, next to what a rank must hold: a
stage's activations live from its forward to its weights' gradient. For even stages and nothing to send the
bubble has a formula, with p ranks, m micro-batches, v stages a rank and F, I, W seconds of a rank's share:

    idle seconds of each rank
    gpipe, 1f1b                      (p - 1) · (F + I + W)
    interleaved_1f1b, looped_bfs     (p - 1) · (F + I + W) / v      m a multiple of p
    zero_bubble                      (p - 1) · (F + I - W) / v      the same, and W no longer than F or I
    zbv                              (p - 1) · F / v: the start     F = I = W, m at least 2p - 1

Notebook 06.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from aiinfra.parallel.schedule import BACKWARD, FORWARD, INPUT, WEIGHT, Action, PipelineTable


# of rank r of p, with m micro-batches and v stages a rank
_MOST_HELD = {
    "gpipe": lambda r, p, m, v: m,
    "1f1b": lambda r, p, m, v: p - r,
    "interleaved_1f1b": lambda r, p, m, v: (v - 1) * p + 2 * (p - 1 - r) + 1,
    "looped_bfs": lambda r, p, m, v: m * v,
    "zero_bubble": lambda r, p, m, v: v * p,
    "zbv": lambda r, p, m, v: 2 * p,
}


@dataclass(frozen=True)
class StageCosts:
    """Seconds of one micro-batch's way through a *rank's* share of the layers, into however many stages it is
    cut."""

    forward: float = 1.0
    input: float = 1.0                  # the gradient of what came in
    weight: float = 1.0                 # the gradient of the weights
    send: float = 0.0                   # from one rank to another
    uneven: tuple[float, ...] = ()      # by stage: how many times its even part it costs; empty: once

    def times(self, factor: float) -> "StageCosts":
        """All of it so many times as long."""
        return StageCosts(
            forward=factor * self.forward,
            input=factor * self.input,
            weight=factor * self.weight,
            send=factor * self.send,
            uneven=self.uneven)

    def seconds(self, action: Action, chunks: int) -> float:
        """Of an action, where a rank has so many stages."""
        spent = {FORWARD: self.forward, INPUT: self.input, WEIGHT: self.weight}
        spent[BACKWARD] = self.input + self.weight
        factor = self.uneven[action.stage] if self.uneven else 1.0
        return spent[action.kind] / chunks * factor


@dataclass(frozen=True)
class Span:
    """One action of one rank, in seconds since the step began; calculated or measured."""

    rank: int
    action: Action
    start: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """All spans of a step, calculated or measured."""

    spans: tuple[Span, ...]
    chunks: int = 1                     # stages that a rank has

    @property
    def seconds(self) -> float:
        """From the first start to the last end."""
        return max(span.end for span in self.spans) - min(span.start for span in self.spans)

    @property
    def ranks(self) -> int:
        """Ranks of the pipeline."""
        return 1 + max(span.rank for span in self.spans)

    def busy(self, rank: int) -> float:
        """Seconds in which a rank computes."""
        return sum(span.end - span.start for span in self.spans if span.rank == rank)

    @property
    def bubble(self) -> float:
        """The idle part of all ranks' time, from 0 to 1."""
        busy = sum(self.busy(rank) for rank in range(self.ranks))
        return 1 - busy / (self.ranks * self.seconds)

    def most_held(self, rank: int) -> int:
        """The high-water mark: activations of one micro-batch in one stage that a rank holds at a time."""
        row = [span for span in self.spans if span.rank == rank]
        row.sort(key=lambda span: span.start)
        return most_held([span.action for span in row])


def most_held(row: Sequence[Action]) -> int:
    """As `Timeline.most_held`, for a rank's actions in order: no clock is needed."""
    held = most = 0
    for action in row:
        if action.kind == FORWARD:
            held += 1
        most = max(most, held)
        if action.kind in (BACKWARD, WEIGHT):
            held -= 1
    return most


def time_table(table: PipelineTable, costs: StageCosts = StageCosts()) -> Timeline:
    """When everything happens. Raises ScheduleError if the table deadlocks."""
    free = [0.0] * table.ranks
    ready: dict[Action, tuple[float, int]] = {}                # what is done -> when, and on which rank
    spans = []
    for rank, action in table.walk():
        start = free[rank]
        for need in action.needs(table.stages):
            end, where = ready[need]
            if where != rank:
                end += costs.send
            start = max(start, end)
        free[rank] = start + costs.seconds(action, table.chunks)
        ready |= {part: (free[rank], rank) for part in action.gives()}
        spans.append(Span(rank, action, start=start, end=free[rank]))
    return Timeline(tuple(spans), table.chunks)


def idle_formula(name: str, ranks: int, chunks: int, costs: StageCosts = StageCosts()) -> float:
    """Idle seconds of a rank for even stages and nothing to send: this module's table. Raises ValueError
    where the field has no formula for these costs."""
    if name not in _MOST_HELD:
        raise ValueError(f"there is no formula for {name!r}: use time_table.")
    F, I, W = costs.forward, costs.input, costs.weight
    gaps = (ranks - 1) / chunks
    if costs.send or costs.uneven:
        raise ValueError("there is no formula for uneven stages or for time to send: use time_table.")
    if name == "zbv":
        if not F == I == W:
            raise ValueError(f"zbv has a formula for F = I = W only, not {F}, {I}, {W}: use time_table.")
        return gaps * F
    if name == "zero_bubble":
        if W > min(F, I):
            raise ValueError(f"zero_bubble has a formula for W up to F and I only, not {F}, {I}, {W}: use "
                             "time_table.")
        return gaps * (F + I - W)
    return gaps * (F + I + W)


def bubble_formula(name: str, ranks: int, microbatches: int, chunks: int = 1,
                   costs: StageCosts = StageCosts()) -> float:
    """The idle part of a step, from 0 to 1. Raises ValueError where there is no formula for these numbers."""
    least = {"looped_bfs": ranks, "zero_bubble": ranks, "zbv": 2 * ranks - 1}
    uneven = name in ("interleaved_1f1b", "zero_bubble") and chunks > 1 and microbatches % ranks
    if microbatches < least.get(name, 1) or uneven:
        raise ValueError(f"{name} on {ranks} ranks has no formula for {microbatches} micro-batches: use "
                         "time_table.")
    idle = idle_formula(name, ranks, chunks, costs)
    busy = microbatches * (costs.forward + costs.input + costs.weight)
    return idle / (idle + busy)


def held_formula(name: str, rank: int, ranks: int, microbatches: int, chunks: int = 1) -> int:
    """The high-water mark of a rank, in activations of one micro-batch in one of its stages. For more than
    one stage a rank: m a multiple of p; for zbv: m at least 2p - 1."""
    most = _MOST_HELD[name](rank, ranks, microbatches, chunks)
    return min(most, microbatches * chunks)


def draw(table: PipelineTable, costs: StageCosts = StageCosts(), unit: float = 1.0) -> str:
    """The table as text, a line a rank and a column every `unit` seconds; an action longer than that goes on
    as dashes."""
    timeline = time_table(table, costs)
    width = max(len(_short(span.action, table)) for span in timeline.spans)
    idle = ["."] * round(timeline.seconds / unit)
    grid = [list(idle) for _ in range(table.ranks)]
    for span in timeline.spans:
        cells = grid[span.rank]
        first = round(span.start / unit)
        last = round(span.end / unit)
        cells[first:last] = ["-" * width] * (last - first)
        cells[first] = _short(span.action, table)
    lines = []
    for rank, cells in enumerate(grid):
        text = " ".join(cell.ljust(width) for cell in cells)
        lines.append(f"rank {rank}  {text.rstrip()}")
    return "\n".join(lines)


def _short(action: Action, table: PipelineTable) -> str:
    """With one stage a rank, the line says which."""
    return str(action) if table.chunks > 1 else f"{action.kind}{action.microbatch}"
