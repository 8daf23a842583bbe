"""`python -m aiinfra.lab.stories`: `write` has a model write raw stories, for an hour or more; `sieve` then
makes the corpus of them, in seconds."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> None:
    """The command. Ctrl-C ends it with status 130, and the same command goes on."""
    parser = argparse.ArgumentParser(prog="python -m aiinfra.lab.stories", description=__doc__)
    commands = parser.add_subparsers(required=True)
    _add_write(commands.add_parser("write", help="have the model write raw stories, into a file that grows"))
    _add_sieve(commands.add_parser("sieve", help="keep the good ones of one or several files"))
    args = parser.parse_args(arguments)
    try:
        args.run(args)
    except KeyboardInterrupt:
        parser.exit(130, "\nstopped; the same command goes on\n")
    except (ValueError, OSError) as error:
        parser.exit(2, f"error: {error}\n")


def _add_write(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--raw", type=Path, required=True, metavar="FILE", help="JSON lines, a story each")
    parser.add_argument("--first", type=int, default=0, help="number of the first story (default: 0)")
    parser.add_argument("--stories", type=int, default=1600, help="how many (default: 1600)")
    parser.add_argument("--seed", type=int, default=0, help="of orders and sampling (default: 0)")
    parser.add_argument("--batch", type=int, default=48, help="stories written side by side (default: 48)")
    parser.add_argument("--model", default="smollm2-135m", help="a model's name or folder")
    parser.set_defaults(run=_write)


def _add_sieve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("raw", type=Path, nargs="+", metavar="FILE", help="what `write` has written")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the corpus: plain text")
    parser.set_defaults(run=_sieve)


def _write(args: argparse.Namespace) -> None:
    from aiinfra.lab.stories.write import write_stories
    if args.stories < 1 or args.batch < 1 or args.first < 0:
        given = f"--first {args.first} --stories {args.stories} --batch {args.batch}"
        raise ValueError(f"{given}: the first is at least 0, the others at least 1.")
    numbers = range(args.first, args.first + args.stories)
    write_stories(args.raw, numbers, seed=args.seed, batch=args.batch, model=args.model)


def _sieve(args: argparse.Namespace) -> None:
    from aiinfra.lab.stories.sieve import sieve, write_corpus
    from aiinfra.lab.stories.write import read_raw
    for path in args.raw:
        if not path.exists():
            raise ValueError(f"{path} does not exist. `python -m aiinfra.lab.stories write` makes it.")
    raw = [story for path in args.raw for story in read_raw(path)]
    found = sieve(raw)
    write_corpus(found.kept, args.out)
    size = sum(map(len, found.kept))
    print(f"{len(raw):,} raw stories, {len(found.kept):,} kept, {size:,} bytes")
    for reason, count in found.refused.most_common():
        share = 100 * count / len(raw)
        print(f"{reason:16} {count:4} ({share:.1f} %)")


if __name__ == "__main__":
    main(sys.argv[1:])
