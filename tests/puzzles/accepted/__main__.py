"""python -m tests.puzzles.accepted [PUZZLE ...] [--seeds N]: judge the right answers in unusual forms.

The first judgement of each is a full one, with the compilers; the others are interpreted. 0 if all passed.
"""

import argparse
import sys

from tqdm import tqdm

from puzzles.catalogue import PUZZLES
from puzzles.checking import judge_text
from puzzles.source import from_text
from tests.puzzles.accepted import Unusual, all_accepted


def refusals(answer: Unusual, seeds: range, compiled: bool = False) -> list[str]:
    """The verdicts of those seeds by which an answer is refused."""
    puzzle, text = PUZZLES[answer.puzzle], from_text(answer.text, answer.puzzle)
    said = []
    for seed in seeds:
        full = compiled and seed == seeds.start
        verdict = judge_text(puzzle, text, seed=1000 * seed + 11, full=full, seconds=60)
        if not verdict.passed:
            said.append(str(verdict))
    return said


def main(arguments: list[str]) -> int:
    """The command: 0 if all are accepted by every seed."""
    parser = argparse.ArgumentParser(prog="python -m tests.puzzles.accepted", description=__doc__)
    parser.add_argument("puzzles", nargs="*", help="names; all if there are none")
    parser.add_argument("--seeds", type=int, default=20, help="judgements of each answer (default 20)")
    parser.add_argument("--interpreted", action="store_true", help="leave the compilers out")
    options = parser.parse_args(arguments)
    names = options.puzzles or list(PUZZLES)
    answers = [answer for answer in all_accepted() if answer.puzzle in names]
    refused = 0
    for answer in tqdm(answers, unit="answer"):
        said = refusals(answer, range(options.seeds), compiled=not options.interpreted)
        if said:
            refused += 1
            times = f"{len(said)} of {options.seeds} judgements"
            tqdm.write(f"{answer.puzzle}, {answer.what}: refused by {times}\n{said[0]}\n")
    print(f"{len(answers)} right answers, {options.seeds} judgements each: {refused} answers refused")
    return bool(refused)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
