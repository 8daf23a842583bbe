"""Mornings at the bus stop: who comes when, for how many tokens, and what the real scheduler does with them.

    trace of (arrival, length) ──► ran(trace, seats, "continuous") ──► [["0", "1"], ["0", "2"], [], …]

A step takes a second, so that arrivals and steps are whole numbers; a second in which nobody was there is
an idle step. Invariant: the schedules are the engine's own, by `plan.simulate`. Used by the judges of
notebook 12.
"""

import random
from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import NamedTuple

from aiinfra.engine.blocks import BlockPool
from aiinfra.engine.record import StepRecord
from aiinfra.engine.request import Request
from aiinfra.engine.scheduler import Scheduler
from aiinfra.lab.figures import timeline
from aiinfra.plan.simulate import SimulatedStep, simulate

Trace = list[tuple[int, int]]                # (arrival, length), in order of arrival

TWELVE: Trace = [(0, 5), (0, 22), (0, 8), (0, 4), (1, 24), (2, 6),
                  (3, 10), (5, 4), (8, 18), (12, 6), (16, 20), (18, 9)]
_IDLE = StepRecord(
    ran=(), made=(), admitted=(), preempted=(), waiting=0, free_blocks=0, cached_blocks=0, used_blocks=0,
    plan_seconds=0.0, model_seconds=0.0, sample_seconds=0.0)


def _every_second(records: Iterable[SimulatedStep]) -> Iterator[StepRecord]:
    """The records of steps of a second each, and an idle one for each second in which nobody was there."""
    second = 0
    for record in records:
        yield from repeat(_IDLE, int(record.begin_seconds) - second)
        yield record
        second = int(record.end_seconds)


def ran(trace: Trace, seats: int, mode: str) -> list[list[str]]:
    """Who ran in each step of the library's scheduler, from step 0; [] where nobody was there."""
    scheduler = Scheduler(BlockPool(100, 64, prefix_caching=False), 4096, seats, mode)
    requests = [Request(str(i), [0], length) for i, (_, length) in enumerate(trace)]
    records = simulate(scheduler, requests, [at for at, _ in trace])
    return timeline.ran(list(_every_second(records)))


def traces(count: int, seed: int) -> list[tuple[Trace, int]]:
    """Random mornings with gaps in them, each with a number of seats."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        requests = range(rng.randint(1, 9))
        arrivals = sorted(rng.choice((0, 0, 3, 9, 10, 30)) + rng.randint(0, 4) for _ in requests)
        trace = [(at, rng.randint(1, 12)) for at in arrivals]
        found.append((trace, rng.randint(1, 4)))
    return found


class Ride(NamedTuple):
    """A run of the scheduler: who ran in each step, and how many seats there were."""

    steps: list[list[str]]
    seats: int
    arrivals: dict[str, int]

    @property
    def free(self) -> list[int]:
        """For each step, how many seats were empty."""
        return [self.seats - len(ids) for ids in self.steps]

    @property
    def wasted(self) -> list[int]:
        """For each step, the empty seats that somebody at the stop could have had."""
        return list(map(min, self.free, timeline.waiting(self.steps, self.arrivals)))

    def at_the_stop(self, step: int) -> list[str]:
        """Who had arrived by then and had never run."""
        been = {name for ids in self.steps[:step + 1] for name in ids}
        return [name for name, at in self.arrivals.items() if at <= step and name not in been]


class Life(NamedTuple):
    """When a request arrived, was admitted, and got its first and its last token: numbers of steps."""

    arrived: int
    admitted: int
    first: int
    last: int


def with_prompts(rng: random.Random) -> tuple[list[StepRecord], dict[str, Life]]:
    """A run of the scheduler with prompts in pieces, and the life of each request in it."""
    scheduler = Scheduler(BlockPool(200, 16, prefix_caching=False), token_budget=8, max_running=3)
    arrivals = {f"r{i}": rng.randint(0, 12) for i in range(6)}
    requests = [Request(name, [0] * rng.choice((2, 5, 20)), rng.randint(1, 6)) for name in arrivals]
    records = list(_every_second(simulate(scheduler, requests, arrivals.values())))
    lives = {}
    for name, arrived in arrivals.items():
        tokens = [at for at, record in enumerate(records) if name in _served(record)]
        admitted = next(at for at, record in enumerate(records) if name in record.admitted)
        lives[name] = Life(arrived=arrived, admitted=admitted, first=tokens[0], last=tokens[-1])
    return records, lives


def _served(record: StepRecord) -> set[str]:
    """Who was given a token in this step."""
    return {made.request_id for made in record.made}
