"""The schedules that the field has names for, as tables for any number of ranks and micro-batches.

    gpipe                 all forwards, then all backwards        Huang et al. 2019, arXiv 1811.06965
    1f1b                  as few forwards ahead as can be          Narayanan et al. 2019 (PipeDream-Flush)
    interleaved_1f1b      a rank has several shorter stages        Narayanan et al. 2021, arXiv 2104.04473
    looped_bfs            the same, stage by stage                 Lamy-Poirier 2022, arXiv 2211.05953
    zero_bubble           W fills what others leave idle (ZB1P)    Qi et al. 2023, arXiv 2401.10241
    zbv                   and two stages a rank, in a V            the same, section 6

All but the last are one rule: a rank goes `ahead` with some forwards, then alternates forward and backward,
then finishes the backwards. Zero-bubble cuts each backward in two and is late with the second half.
Each table is equal to PyTorch's for the same numbers. Notebook 06.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from aiinfra.parallel.schedule import BACKWARD, FORWARD, INPUT, WEIGHT, Action, PipelineTable, ScheduleError
from aiinfra.parallel.schedule import check

Place = tuple[int, int]           # a stage and a micro-batch


def gpipe(rank: int, ranks: int, microbatches: int, chunks: int) -> list[Action]:
    """All forwards, then all backwards: the activations of all micro-batches are held at once."""
    places = [(rank, microbatch) for microbatch in range(microbatches)]
    return _order(places, places, ahead=microbatches)


def one_forward_one_backward(rank: int, ranks: int, microbatches: int, chunks: int) -> list[Action]:
    """A rank is ahead by as many forwards as there are ranks behind it."""
    places = [(rank, microbatch) for microbatch in range(microbatches)]
    return _order(places, places, ahead=ranks - 1 - rank)


def interleaved(rank: int, ranks: int, microbatches: int, chunks: int) -> list[Action]:
    """Rounds of about as many micro-batches as ranks go through a rank's first stage, then its second, …"""
    forwards, backwards = _rounds(rank, ranks, microbatches, chunks)
    ahead = (chunks - 1) * _round_size(ranks, microbatches) + 2 * (ranks - 1 - rank)
    return _order(forwards, backwards, ahead)


def looped_bfs(rank: int, ranks: int, microbatches: int, chunks: int) -> list[Action]:
    """All micro-batches through a rank's first stage, then all through its second, …"""
    stages = range(rank, ranks * chunks, ranks)
    forwards = [(stage, microbatch) for stage in stages for microbatch in range(microbatches)]
    return _order(forwards, forwards[::-1], ahead=len(forwards))


def zero_bubble(rank: int, ranks: int, microbatches: int, chunks: int) -> list[Action]:
    """As `interleaved`, ahead by half as much; a weight's gradient waits for as many inputs' as the rank's
    number, so that it is there to be done when nothing else is."""
    forwards, backwards = _rounds(rank, ranks, microbatches, chunks)
    ahead = (chunks - 1) * _round_size(ranks, microbatches) + ranks - 1 - rank
    return _order(forwards, backwards, ahead, late=rank)


def v_shaped(rank: int, ranks: int, microbatches: int, chunks: int) -> list[Action]:
    """Down the ranks and up again: rank r has stages r and 2·ranks − 1 − r. No rank idles between its first
    and last action if F, I and W take equally long and micro-batches are at least 2·ranks − 1."""
    full = max(microbatches, 2 * ranks - 1)
    behind = ranks - rank                                      # ranks from this one to the point of the V
    steps = ["0F"] * (2 * behind - 1)
    steps += ["1F", "0F"] * rank
    steps += ["1F", "1I", "1W"] * behind
    steps += ["0F", "0I", "0W", "1F", "1I", "1W"] * (full - 2 * ranks + rank + 1)
    steps += ["0I", "0W", "1F", "1I", "1W"] * (behind - 1)
    steps += ["0I", "1I"] * rank
    steps += ["0I", "0W"] * behind
    steps += ["1W"] * rank
    steps += ["0W"] * rank
    stages = {"0": rank, "1": 2 * ranks - 1 - rank}
    counts: Counter[str] = Counter()                           # each takes micro-batches in their order
    actions = []
    for step in steps:
        down_or_up, kind = step
        actions.append(Action(stages[down_or_up], kind, counts[step]))
        counts[step] += 1
    return [action for action in actions if action.microbatch < microbatches]


def _round_size(ranks: int, microbatches: int) -> int:
    rounds = max(1, microbatches // ranks)
    return -(-microbatches // rounds)


def _rounds(rank: int, ranks: int, microbatches: int, chunks: int) -> tuple[list[Place], list[Place]]:
    """The forwards and backwards of a rank that has every ranks-th stage, in rounds of micro-batches."""
    size = _round_size(ranks, microbatches)
    stages = range(rank, ranks * chunks, ranks)
    forwards, backwards = [], []
    for start in range(0, microbatches, size):
        round_ = range(start, min(start + size, microbatches))
        forwards += [(stage, microbatch) for stage in stages for microbatch in round_]
        backwards += [(stage, microbatch) for stage in reversed(stages) for microbatch in round_]
    return forwards, backwards


def _order(forwards: list[Place], backwards: list[Place], ahead: int,
           late: int | None = None) -> list[Action]:
    """`ahead` forwards, then a forward and a backward in turn, then backwards. late: a backward is two
    actions, and the second follows after so many more of the first."""
    first, then = forwards[:ahead], forwards[ahead:]
    kind = BACKWARD if late is None else INPUT
    actions = [_action(FORWARD, place) for place in first]
    for number, place in enumerate(backwards):
        if number < len(then):
            actions.append(_action(FORWARD, then[number]))
        actions.append(_action(kind, place))
        if late is not None and number >= late:
            actions.append(_action(WEIGHT, backwards[number - late]))
    if late is not None:
        left = max(0, len(backwards) - late)
        actions += [_action(WEIGHT, place) for place in backwards[left:]]
    return actions


def _action(kind: str, place: Place) -> Action:
    stage, microbatch = place
    return Action(stage, kind, microbatch)


@dataclass(frozen=True)
class _Rule:
    order: Callable[[int, int, int, int], list[Action]]
    chunks: int                  # stages a rank, if nobody asks for another number
    any_chunks: bool


_RULES = {
    "gpipe": _Rule(gpipe, chunks=1, any_chunks=False),
    "1f1b": _Rule(one_forward_one_backward, chunks=1, any_chunks=False),
    "interleaved_1f1b": _Rule(interleaved, chunks=2, any_chunks=True),
    "looped_bfs": _Rule(looped_bfs, chunks=2, any_chunks=True),
    "zero_bubble": _Rule(zero_bubble, chunks=1, any_chunks=True),
    "zbv": _Rule(v_shaped, chunks=2, any_chunks=False),
}
SCHEDULES = tuple(_RULES)


def make_table(name: str, ranks: int, microbatches: int, chunks: int | None = None) -> PipelineTable:
    """The table of a schedule by its name (`SCHEDULES`), checked. chunks: stages that each rank has; None:
    as many as is usual for it. Raises ScheduleError if the numbers cannot be."""
    if name not in _RULES:
        raise ScheduleError(f"schedule {name!r} is not known; there are {', '.join(SCHEDULES)}.")
    rule = _RULES[name]
    chunks = rule.chunks if chunks is None else chunks
    if min(ranks, microbatches, chunks) < 1:
        given = f"{ranks} ranks, {microbatches} micro-batches, {chunks} stages a rank"
        raise ScheduleError(f"{name} with {given}: each must be at least 1.")
    if chunks != rule.chunks and not rule.any_chunks:
        raise ScheduleError(f"{name} has {rule.chunks} stages a rank, not {chunks}; interleaved_1f1b, "
                            "looped_bfs and zero_bubble have any number.")
    rows = tuple(tuple(rule.order(rank, ranks, microbatches, chunks)) for rank in range(ranks))
    table = PipelineTable(name, rows)
    check(table)
    return table
