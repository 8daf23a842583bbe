"""`python -m aiinfra fetch`: a known model into the cache folder."""

import argparse
from pathlib import Path

from aiinfra.checkpoint.hub import CATALOGUE, DEFAULT_MODEL, fetch
from aiinfra.errors import nearest


def add_fetch(parser: argparse.ArgumentParser) -> None:
    """The arguments of `fetch`."""
    parser.add_argument("name", nargs="?", default=DEFAULT_MODEL, help="its name")
    folder = "another cache folder (None: $AIINFRA_CACHE or the user's own)"
    parser.add_argument("--cache", type=Path, help=folder)
    parser.set_defaults(run=run_fetch)


def run_fetch(args: argparse.Namespace) -> None:
    """Print where the model's file is, after fetching it if need be."""
    if args.name not in CATALOGUE:
        known = ", ".join(CATALOGUE)
        guess = nearest(args.name, CATALOGUE)
        raise ValueError(f"no known model {args.name!r}.{guess} Known names: {known}.")
    print(f"{args.name}: {fetch(args.name, args.cache)}")
