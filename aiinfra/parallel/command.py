"""`python -m aiinfra parallel check`: every mix of parallelism against one process, in a table.

PyTorch is imported only to do it.
"""

import argparse

_DTYPES = ("float64", "float32")


def add_parallel(parser: argparse.ArgumentParser) -> None:
    """The commands below `parallel`."""
    below = parser.add_subparsers(metavar="what", required=True)
    purpose = "Train a small model with every mix of parallelism, and print how it differs from one process."
    check = below.add_parser("check", help="is every mix one process?", description=purpose)
    add = check.add_argument
    add("rows", nargs="*", metavar="ROW", help="only rows that have one of these texts in name or mesh")
    add("--ranks", type=int, nargs="*", metavar="N", help="only meshes of so many processes (None: any)")
    add("--dtype", choices=_DTYPES, default=_DTYPES[0], help="to compute in")
    check.set_defaults(run=run_check)


def run_check(args: argparse.Namespace) -> None:
    """Print a line for each mix as soon as it is known. Raises RuntimeError, after the last one, if one of
    them is not one process."""
    import torch
    from tqdm import tqdm

    from aiinfra.parallel.equality import TOLERANCES, check_in_turns
    from aiinfra.parallel.mixes import MIXES, chosen
    from aiinfra.parallel.table import HEADER, is_equal, line_of
    mixes = chosen(MIXES, args.rows, args.ranks)
    limit = TOLERANCES[args.dtype]
    print(f"The largest differences from one process in {args.dtype}, over three steps and all ranks.")
    print(f"Sums in another order differ by rounding, at most {limit:g} here.\n\n{HEADER}")
    unequal = []
    with tqdm(total=len(mixes), unit="mix", leave=False) as bar:
        for mix, found in check_in_turns(mixes, getattr(torch, args.dtype)):
            tqdm.write(line_of(mix, found, limit))
            bar.update()
            if not is_equal(found, limit):
                unequal.append(f"{mix.name} on {mix.mesh}")
    if unequal:
        raise RuntimeError(f"{len(unequal)} of {len(mixes)} are not one process: {'; '.join(unequal)}.")
    print(f"\nall {len(mixes)} are one process")
