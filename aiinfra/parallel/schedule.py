"""A pipeline schedule is a table: which rank does what, in which order. It runs on no device.

    1F1B on 3 ranks, 4 micro-batches                                a column is as long as a forward

    rank 0  F0 F1 F2 .  .  .  .  B0 -- F3 B1 -- .  B2 -- .  B3 --        stage 0: the first layers
    rank 1  .  F0 F1 .  .  B0 -- F2 B1 -- F3 B2 -- .  B3 -- .  .         stage 1
    rank 2  .  .  F0 B0 -- F1 B1 -- F2 B2 -- F3 B3 -- .  .  .  .         stage 2: the last, and the loss

F is a forward, B a backward; B may be two actions: I, the gradient of what came in, which the rank before
waits for, and W, the gradients of the weights, for which nobody waits.

Only the order is the schedule's; when something happens follows from what it waits for (timing.py). A table
that passes `check` meets every dependency and cannot deadlock, however long its actions take. The text of an
action ("2F0": stage 2, forward, micro-batch 0) and the CSV file are those of torch.distributed.pipelining.
Who makes tables: orders.py; who runs them: pipeline.py. Notebook 06.
"""

import csv
import re
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import NamedTuple

from aiinfra.files import replace_whole

FORWARD, BACKWARD, INPUT, WEIGHT = "F", "B", "I", "W"
_WRITTEN = re.compile(r"(\d+)([FBIW])(\d+)")
_TOGETHER = re.compile(r"\((.*)\)OVERLAP_F_B")        # done one after the other, by PyTorch's runtime too


class ScheduleError(ValueError):
    """A schedule that cannot be made, read or run."""


class Action(NamedTuple):
    """What a rank does at a time: one micro-batch through one stage, in one direction."""

    stage: int
    kind: str             # FORWARD; BACKWARD, or its two halves INPUT and WEIGHT
    microbatch: int

    def __str__(self) -> str:
        return f"{self.stage}{self.kind}{self.microbatch}"

    def gives(self) -> list["Action"]:
        """What is done with it: a whole backward is both of its halves."""
        if self.kind != BACKWARD:
            return [self]
        return [self._replace(kind=INPUT), self._replace(kind=WEIGHT)]

    def needs(self, stages: int) -> list["Action"]:
        """What must be done before, here or on another rank."""
        if self.kind == WEIGHT:
            return [self._replace(kind=INPUT)]
        if self.kind == FORWARD:
            return [] if self.stage == 0 else [self._replace(stage=self.stage - 1)]
        own = self._replace(kind=FORWARD)
        if self.stage == stages - 1:
            return [own]
        return [own, Action(self.stage + 1, INPUT, self.microbatch)]


@dataclass(frozen=True)
class PipelineTable:
    """The actions of every rank, in order."""

    name: str
    rows: tuple[tuple[Action, ...], ...]

    @property
    def ranks(self) -> int:
        """Ranks of the pipeline."""
        return len(self.rows)

    @cached_property
    def rank_of(self) -> dict[int, int]:
        """Stage -> the rank that has it; the last, if there are two."""
        return {action.stage: rank for rank, row in enumerate(self.rows) for action in row}

    @property
    def stages(self) -> int:
        """How many pieces the layers are cut into."""
        return len(self.rank_of)

    @property
    def chunks(self) -> int:
        """Stages that a rank has, at most."""
        return max(Counter(self.rank_of.values()).values())

    @cached_property
    def microbatches(self) -> int:
        """Micro-batches in a step."""
        return 1 + max(action.microbatch for row in self.rows for action in row)

    def stages_of(self, rank: int) -> list[int]:
        """Stages of a rank, in the order of the layers."""
        return sorted(stage for stage, owner in self.rank_of.items() if owner == rank)

    def walk(self) -> Iterator[tuple[int, Action]]:
        """(rank, action) in an order in which all could happen. Raises ScheduleError at a deadlock."""
        left = [deque(row) for row in self.rows]
        done: set[Action] = set()
        before = -1
        while len(done) > before:                               # until a whole round moves nobody
            before = len(done)
            for rank, row in enumerate(left):
                while row and done.issuperset(row[0].needs(self.stages)):
                    action = row.popleft()
                    yield rank, action
                    done.update(action.gives())
        if any(left):
            raise ScheduleError(f"{self.name} deadlocks: {self._waits(left, done)}.")

    def _waits(self, left: list[deque[Action]], done: set[Action]) -> str:
        waits = []
        for rank, row in enumerate(left):
            if row:
                missing = [str(need) for need in row[0].needs(self.stages) if need not in done]
                waits.append(f"rank {rank} waits at {row[0]} for {' and '.join(missing)}")
        return "; ".join(waits)


def check(table: PipelineTable) -> None:
    """Raise ScheduleError unless every stage is on one rank, every micro-batch goes through it once in each
    direction, and all that an action waits for comes."""
    for rank in range(table.ranks):
        for action in table.rows[rank]:
            if table.rank_of[action.stage] != rank:
                raise ScheduleError(f"{table.name}: stage {action.stage} is on more than one rank.")
    counts = Counter(part for row in table.rows for action in row for part in action.gives())
    places = product(range(table.stages), (FORWARD, INPUT, WEIGHT), range(table.microbatches))
    for place in places:
        count = counts[Action(*place)]
        if count != 1:
            raise ScheduleError(f"{table.name}: {Action(*place)} is there {count} times, not once.")
    for _ in table.walk():
        pass


def read_csv(path: str | Path) -> PipelineTable:
    """A table from PyTorch's CSV: a line a rank, a field an action; empty fields are idle times, which follow
    anyway. It is checked. Raises ScheduleError, and OSError if the file cannot be read."""
    path = Path(path)
    rows = []
    with path.open(newline="", encoding="utf-8") as file:
        for number, line in enumerate(csv.reader(file), 1):
            rows.append(tuple(_actions(line, f"{path}, line {number}")))
    if not any(rows):
        raise ScheduleError(f"{path}: no action is in it.")
    table = PipelineTable(path.stem, tuple(rows))
    check(table)
    return table


def _actions(fields: list[str], where: str) -> Iterator[Action]:
    for field in fields:
        together = _TOGETHER.fullmatch(field.strip())
        parts = together[1].split(";") if together else [field]
        for text in parts:
            if text.strip():
                yield _action(text.strip(), where)


def _action(text: str, where: str) -> Action:
    found = _WRITTEN.fullmatch(text)
    if not found:
        raise ScheduleError(f"{where}: {text!r} is no action; expected a stage, one of F, B, I and W, and a "
                            "micro-batch, as in 2F0. What is sent and received is worked out: write the file "
                            "without it (compute_only).")
    stage, kind, microbatch = found.groups()
    return Action(int(stage), kind, int(microbatch))


def write_csv(table: PipelineTable, path: str | Path) -> None:
    """Write PyTorch's CSV, whole or not at all."""
    lines = [",".join(map(str, row)) + "\n" for row in table.rows]
    replace_whole(path, lambda temporary: temporary.write_text("".join(lines), encoding="utf-8"))
