"""The proof that the judge can be trusted: solutions pass, stubs do not, wrong answers fail for the right
reason.

This is where every solution and every known-wrong answer of the sheets is judged, once each. Whoever tests
the sheets themselves, or the boards, needs to judge none of them again.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest

from puzzles.catalogue import PUZZLES, SHEETS
from puzzles.checking import Workers, judge_text
from puzzles.judge.process import Worker
from puzzles.judge.verdict import KINDS
from puzzles.source import from_text
from puzzles.statement import stub
from puzzles.wrong import all_wrong, solution_text, wrong_text

pytestmark = pytest.mark.compile
_HEADER = "import triton\nimport triton.language as tl\n\n\n"
_LANES = 2
COMPILED = ("does_not_compile", "does_not_fit")      # what the compilers find


@pytest.fixture(scope="module")
def lanes():
    """Two pairs of workers, for two cores."""
    pairs = [Workers(interpreter=Worker(True), compiler=Worker(False)) for _ in range(_LANES)]
    yield pairs
    for worker in (worker for pair in pairs for worker in pair):
        worker.close()


def _judge_all(lanes, jobs):
    """Verdicts of (puzzle, text, full) jobs, two at a time, in order."""
    def run_lane(lane):
        return [judge_text(puzzle, from_text(text, puzzle.name), full=full, workers=lanes[lane])
                for puzzle, text, full in jobs[lane::_LANES]]
    with ThreadPoolExecutor(_LANES) as pool:
        results = list(pool.map(run_lane, range(_LANES)))
    return [results[i % _LANES][i // _LANES] for i in range(len(jobs))]


@pytest.mark.parametrize("sheet", SHEETS)
def test_solutions_pass_and_compile(lanes, sheet):
    mine = [p for p in PUZZLES.values() if p.sheet == sheet]
    verdicts = _judge_all(lanes, [(p, solution_text(sheet), True) for p in mine])
    failed = [str(v) for v in verdicts if not v.passed]
    assert not failed, "\n".join(failed)
    for verdict in verdicts:
        assert [c.target for c in verdict.compiled] == ["sm_80", "sm_90", "sm_100"]
        assert all(c.registers > 0 for c in verdict.compiled)


@pytest.mark.parametrize("sheet", SHEETS)
def test_wrong_answers_are_rejected_for_the_right_reason(lanes, sheet):
    answers = [a for a in all_wrong() if PUZZLES[a.puzzle].sheet == sheet]
    jobs = [(PUZZLES[a.puzzle], wrong_text(a, sheet), a.expect in COMPILED) for a in answers]
    verdicts = _judge_all(lanes, jobs)
    bad = [f"{a.puzzle}, {a.what}: expected {a.expect}\n{v}" for a, v in zip(answers, verdicts)
           if v.passed or v.kinds[0] != a.expect]
    assert not bad, "\n\n".join(bad)


def test_stubs_are_not_solved_yet(lanes):
    verdicts = _judge_all(lanes, [(p, _HEADER + stub(p), False) for p in PUZZLES.values()])
    assert {v.status for v in verdicts} == {"not solved yet"}


def test_there_are_enough_puzzles_and_wrong_answers_of_different_kinds():
    answers = all_wrong()
    assert len(PUZZLES) >= 24
    assert {a.expect for a in answers} <= set(KINDS)
    for name in PUZZLES:
        kinds = [a.expect for a in answers if a.puzzle == name]
        assert len(kinds) >= 4 and len(set(kinds)) >= 2, f"{name}: {kinds}"


def test_every_puzzle_is_complete():
    for puzzle in PUZZLES.values():
        assert puzzle.minutes > 0 and puzzle.picture, puzzle.name
        assert len(puzzle.hints) == 3 and all(puzzle.hints), puzzle.name
        assert len({str(c) for c in puzzle.cases}) >= 3, puzzle.name
