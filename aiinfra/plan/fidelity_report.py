"""What `plan fidelity` prints: the cost that was measured, then engine and simulator side by side."""

import json
from dataclasses import asdict

from tqdm import tqdm

from aiinfra.checkpoint import load
from aiinfra.device import device_name
from aiinfra.plan.fidelity import HEADING, fidelity
from aiinfra.plan.measured import measure_cost


def print_fidelity(model_name: str, requests: int, turns: int, seed: int, as_json: bool) -> None:
    """Measure, serve, simulate, compare. Raises ValueError for less than two requests or one turn."""
    for name, value, least in (("--requests", requests, 2), ("--turns", turns, 1)):
        if value < least:
            raise ValueError(f"{name} {value}; it must be at least {least}.")
    model, _ = load(model_name)
    with tqdm(total=turns, desc="cost of a step", disable=None) as bar:
        cost = measure_cost(model, turns, bar.update)
    if not as_json:
        print(f"{model_name} on {device_name(model.device)}")
        print("\n".join([*cost.lines(), "", HEADING]))
    rows = []
    with tqdm(desc="served", unit="tok", disable=None) as bar:
        for row in fidelity(model, cost, requests, seed, bar.update):
            rows.append(row)
            if not as_json:
                tqdm.write(str(row))
    if as_json:
        found = [asdict(row) | {"error": row.error, "bound": row.bound, "spread": row.spread} for row in rows]
        print(json.dumps({"model": model_name, "cost": asdict(cost), "rows": found}, indent=1))
