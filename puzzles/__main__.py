"""python -m puzzles: the list and the board; python -m puzzles check FILE [NAME]: verdicts.

Exit status: 0 if all that was checked passed, 1 if something did not, 2 if it could not be checked.
"""

import argparse
import sys
from pathlib import Path

from puzzles.board import progress
from puzzles.checking import check_file
from puzzles.hints import hint
from puzzles.source import BadInput


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "check":
            return _check(options.file, options.name, options.seconds)
        if options.command == "hint":
            print(hint(options.name, options.level))
        else:
            print(progress())
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _check(file: Path, name: str | None, seconds: float) -> int:
    verdicts = check_file(file, name, seconds=seconds)
    print("\n".join(map(str, verdicts)))
    return 0 if all(verdict.passed for verdict in verdicts) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m puzzles", description="Triton puzzles: without a command, the list and the board."
    )
    commands = parser.add_subparsers(dest="command")
    check = commands.add_parser("check", help="judge the answers in a .py or .ipynb file")
    check.add_argument("file", type=Path)
    check.add_argument("name", nargs="?", help="one puzzle; all functions named like a puzzle if left out")
    check.add_argument("--seconds", type=float, default=20.0, help="time limit of each stage (default 20)")
    hints = commands.add_parser("hint", help="show a hint: the next one, or that of a level")
    hints.add_argument("name")
    hints.add_argument("level", nargs="?", type=int, help="1, 2 or 3")
    return parser


if __name__ == "__main__":
    sys.exit(main())
