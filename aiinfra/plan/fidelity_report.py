"""What `plan fidelity` prints: the cost that was measured, then engine and simulator side by side."""

import argparse
import json
from dataclasses import asdict

from tqdm import tqdm

from aiinfra.checkpoint import load
from aiinfra.device import device_name
from aiinfra.errors import plural
from aiinfra.plan.fidelity import HEADING, fidelity
from aiinfra.plan.measured import measure_cost

_MOST = 10_000                        # requests, turns or runs


def print_fidelity(args: argparse.Namespace) -> None:
    """Measure, serve, simulate, compare. Raises ValueError for less than two requests, a turn or a run, and
    for more than anybody would wait for."""
    for name, value, least in (("--requests", args.requests, 2), ("--turns", args.turns, 1),
                               ("--runs", args.runs, 1)):
        if not least <= value <= _MOST:
            raise ValueError(f"{name} {value}; it must be at least {least}, and at most {_MOST:,}.")
    model, _ = load(args.model)
    with tqdm(total=args.turns, desc="cost of a step", disable=None) as bar:
        cost = measure_cost(model, args.turns, bar.update)
    if not args.json:
        print(f"{args.model} on {device_name(model.device)}; the engine: the median of "
              f"{plural(args.runs, 'run')}")
        print("\n".join([*cost.lines(), "", HEADING]))
    rows = []
    with tqdm(desc="served", unit="tok", disable=None) as bar:
        for row in fidelity(model, cost, args.requests, args.seed, args.runs, bar.update):
            rows.append(row)
            if not args.json:
                tqdm.write(str(row))
    if args.json:
        found = [asdict(row) | {"error": row.error, "bound": row.bound, "spread": row.spread} for row in rows]
        print(json.dumps({"model": args.model, "cost": asdict(cost), "rows": found}, indent=1))
