"""What judges ask of the program of one rank: to run on several ranks, to end, and to agree.

    results, sent = run_ranks(lambda comm: answer(parts[comm.rank], comm), 4)
    agree(results, "the loss")

Ranks are threads (threads.py); all of them raise what a judge raises. Used by notebooks/exercises.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from aiinfra.lab.exercise import Wrong, require
from aiinfra.lab.judging import answered, same
from aiinfra.lab.threads import Deadlock, in_threads
from aiinfra.parallel.communicator import Communicator

_SECONDS = 10.0


class RanksRan(NamedTuple):
    """What each rank returned, and the most bytes that one of them sent."""

    results: list[Any]
    sent: int


def run_ranks(program: Callable[[Communicator], Any], ranks: int) -> RanksRan:
    """The program on `ranks` threads. Raises Wrong if they wait for each other or do not end, Unsolved if one
    returns `...`."""
    def rank(comm: Communicator) -> tuple[Any, int]:
        result = answered(program(comm))
        return result, comm.sent.nbytes
    try:
        results, sent = zip(*in_threads(rank, ranks, _SECONDS), strict=True)
    except Deadlock as deadlock:
        raise Wrong(f"{deadlock} All ranks must take part in the same collectives, in the same order, also "
                    "those that have nothing to add.") from None
    except TimeoutError as late:
        raise Wrong(str(late)) from None
    return RanksRan(list(results), max(sent))


def agree(results: list[Any], what: str) -> None:
    """Raise Wrong unless all ranks have the same."""
    for rank, result in enumerate(results[1:], 1):
        message = f"{what} is not the same on rank 0 and rank {rank}: all ranks need it, whole."
        require(same(result, results[0], rtol=1e-9), message)
