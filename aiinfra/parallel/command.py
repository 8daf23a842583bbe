"""`python -m aiinfra parallel check`: every mix of parallelism against one process, in a table.
`python -m aiinfra parallel schedule`: a pipeline's table, on no device.
`python -m aiinfra train --mesh`: a training by all that torchrun has started.

PyTorch is imported only to do it.
"""

import argparse

from aiinfra.arguments import file_to_write, number, whole
from aiinfra.environment import torchrun_place
from aiinfra.parallel.orders import SCHEDULES, make_table
from aiinfra.parallel.schedule import PipelineTable, read_csv, write_csv
from aiinfra.parallel.schedule_report import report
from aiinfra.parallel.timing import StageCosts
from aiinfra.train import command as train

_DTYPES = ("float64", "float32")
# Of a table that is printed: more would take minutes and be read by nobody.
_MOST_RANKS, _MOST_MICRO_BATCHES, _MOST_STAGES = 256, 4096, 64


def add_parallel(parser: argparse.ArgumentParser) -> None:
    """The commands below `parallel`."""
    below = parser.add_subparsers(metavar="what", required=True)
    purpose = "Train a small model with every mix of parallelism, and print how it differs from one process."
    check = below.add_parser("check", help="is every mix one process?", description=purpose)
    add = check.add_argument
    add("rows", nargs="*", metavar="ROW", help="only rows that have one of these texts in name or mesh")
    add("--ranks", type=whole(), nargs="+", metavar="N",
        help="only meshes of so many processes (default: any)")
    add("--dtype", choices=_DTYPES, default=_DTYPES[0], help="to compute in")
    check.set_defaults(run=run_check)
    _add_schedule(below)


def _add_schedule(below: argparse._SubParsersAction) -> None:
    purpose = "Check a pipeline's schedule; print its table, its bubble and what each rank must hold."
    schedule = below.add_parser("schedule", help="a pipeline's table, on no device", description=purpose)
    add = schedule.add_argument
    add("name", help=f"{', '.join(SCHEDULES)}, or a CSV file of torch.distributed.pipelining")
    add("--ranks", type=whole(1, _MOST_RANKS), default=4, metavar="N", help="of the pipeline")
    add("--micro-batches", type=whole(1, _MOST_MICRO_BATCHES), default=8, metavar="N", help="of a step")
    add("--stages", type=whole(1, _MOST_STAGES), metavar="N",
        help="of each rank (default: as is usual for the schedule)")
    add("--costs", type=whole(), nargs=3, default=(1, 1, 1), metavar=("F", "I", "W"),
        help="of a forward, of the input's gradient and of the weights', in whole units")
    add("--run", type=number(above=0, most=10), metavar="SECONDS", dest="unit_seconds",
        help="also run it, on processes here, with actions of so many seconds a unit (default: do not)")
    add("--csv", type=file_to_write(), metavar="FILE", help="also write the table there (default: do not)")
    schedule.set_defaults(run=run_schedule)


def run_schedule(args: argparse.Namespace) -> None:
    """Print a schedule. Raises ScheduleError for one that cannot be."""
    if args.name.endswith(".csv"):
        table = read_csv(args.name)
    else:
        table = make_table(args.name, args.ranks, args.micro_batches, args.stages)
    costs = StageCosts(*args.costs)
    print(report(table, costs))
    if args.csv is not None:
        write_csv(table, args.csv)
    if args.unit_seconds is not None:
        _measure(table, costs.times(args.unit_seconds))


def _measure(table: PipelineTable, least: StageCosts) -> None:
    """Print what a run shows of the same figures. Raises ScheduleError for a table from a file."""
    from aiinfra.parallel.pipeline_trial import try_pipeline
    trial = try_pipeline(table.name, table.ranks, table.microbatches, chunks=table.chunks, least=least)
    held = "  ".join(f"{count:.2f}" for count in trial.held)
    print(f"\nmeasured on {table.ranks} processes, the length of actions emulated:")
    print(f"bubble {trial.timeline.bubble:.1%}; activations held, in micro-batches, by rank: {held}")


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


def add_train(parser: argparse.ArgumentParser) -> None:
    """The arguments of a training, and what a mesh adds."""
    train.add_train(parser)
    add = parser.add_argument
    add("--mesh", help="under torchrun: ranks by dimension, as dp=2,tp=2; names dp, fsdp, tp, pp, cp, ep "
                       "(default: all ranks are dp)")
    add("--schedule", default="1f1b", help=f"of a pipeline (pp): {', '.join(SCHEDULES)}")
    add("--stages", type=whole(), metavar="N",
        help="of each rank of a pipeline (default: as is usual for it)")
    add("--zero", type=int, choices=(2, 3), default=3,
        help="with fsdp: 3 drops a layer's weights after its forward pass, 2 keeps them for the backward")
    add("--timeout", type=number(above=0), default=600.0,
        help="the longest that a rank waits for the others: seconds")
    add("--sequence", action="store_true", help="with tp: cut the norms' rows, too")
    parser.set_defaults(run=run_train)


def run_train(args: argparse.Namespace) -> None:
    """Train in one process, or under torchrun together with all that it has started.

    Raises ValueError for a mesh without torchrun, or of another size; Disagreement for a rank with other
    settings or versions.
    """
    if torchrun_place() is None and args.mesh is None:
        train.run_train(args)
        return
    from dataclasses import asdict

    from aiinfra.parallel.launch import init_ranks
    from aiinfra.parallel.mesh import make_mesh, parse_mesh
    from aiinfra.parallel.parallelize import ParallelOptions
    from aiinfra.parallel.team import MeshTeam
    how = ParallelOptions(
        schedule=args.schedule,
        stages=args.stages,
        sequence=args.sequence,
        gather_again=args.zero == 3)
    compared = asdict(train.options_of(args)) | asdict(how) | {"mesh": args.mesh}
    device = init_ranks(compared, args.timeout)
    args.device = device.type
    mesh = make_mesh(parse_mesh(args.mesh or f"dp={torchrun_place().ranks}"))
    train.train_with(args, MeshTeam(mesh, how))
