"""Verdicts to look at: what notebook 09 shows of the judge without a record on the board.

    judge_all(known_answers())           many answers
    verdict_on("outer_sum_2d")           one of the repository's own; a second name asks for a wrong one
    mirror_verdict(kernel)               a kernel for the page's own little puzzle, z[i] = x[N - 1 - i]
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch

from puzzles.catalogue import PUZZLES
from puzzles.checking import Workers, judge_text
from puzzles.judge.process import Worker
from puzzles.puzzle import case
from puzzles.render import ShownVerdict
from puzzles.source import from_kernel, from_text
from puzzles.tensors import Size
from puzzles.usual_checker import KnownAnswer
from puzzles.wrong import all_wrong, solution_text, wrong_text


def judge_all(answers: Sequence[KnownAnswer], processes: int = 2) -> list[ShownVerdict]:
    """The judge on many answers, `processes` at a time, interpreted only; nothing is recorded."""
    with ThreadPoolExecutor(processes) as pool:
        parts = list(pool.map(lambda lane: _judge_lane(answers[lane::processes]), range(processes)))
    return [parts[i % processes][i // processes] for i in range(len(answers))]


def _judge_lane(answers: Sequence[KnownAnswer]) -> list[ShownVerdict]:
    """One after another, in a process of their own."""
    worker = Worker(interpret=True)
    workers = Workers(interpreter=worker, compiler=worker)
    verdicts = []
    try:
        for one in answers:
            text = from_text(one.text, one.puzzle)
            verdicts.append(judge_text(PUZZLES[one.puzzle], text, full=False, workers=workers))
    finally:
        worker.close()
    return verdicts


def verdict_on(puzzle: str, what: str = "", full: bool = False) -> ShownVerdict:
    """The judge on this repository's own answer to a puzzle: the solution, or the wrong one called `what`.

    Raises ValueError if there is no such wrong answer.
    """
    sheet = PUZZLES[puzzle].sheet
    text = solution_text(sheet)
    if what:
        wrong = {answer.what: answer for answer in all_wrong() if answer.puzzle == puzzle}
        if what not in wrong:
            names = ", ".join(map(repr, wrong))
            raise ValueError(f"{puzzle} has no wrong answer {what!r}; there are {names}.")
        text = wrong_text(wrong[what], sheet)
    return judge_text(PUZZLES[puzzle], from_text(text, puzzle), full=full)


def _mirrored(x: torch.Tensor, N: int, BLOCK: int) -> dict[str, torch.Tensor]:
    return dict(z=x.flip(0))


_MIRROR = replace(
    PUZZLES["add_blocks"],
    name="mirror",
    sheet=0,
    title="Mirror",
    statement="z[i] = x[N - 1 - i]",
    scalars={"N": Size},
    reference=_mirrored,
    cases=(case(N=8, BLOCK=8), case(N=10, BLOCK=4), case(N=1, BLOCK=8), case(N=200, BLOCK=64)),
    big=case(N=1 << 24, BLOCK=1024),
)


def mirror_verdict(kernel: Any, full: bool = False) -> ShownVerdict:
    """The judge on a kernel for z[i] = x[N - 1 - i] with (x_ptr, z_ptr, N, BLOCK); `full` compiles, too."""
    return judge_text(_MIRROR, from_kernel(kernel), full=full)
