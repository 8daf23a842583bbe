"""A schedule in words: its table, how much of it is idle, and what each rank must hold.

    1f1b: 3 ranks with 1 stage each, micro-batches: 4
    rank 0  F0 F1 F2 …
    …
    rank 0 holds the activations of at most 3 micro-batches
    …
    bubble 33.3% (formula: 33.3%)

No device is needed; what is printed is what `pipeline.py` runs. Notebook 06.
"""

import math

from aiinfra.errors import plural
from aiinfra.parallel.schedule import PipelineTable
from aiinfra.parallel.timing import StageCosts, bubble_formula, draw, most_held, time_table


def report(table: PipelineTable, costs: StageCosts = StageCosts()) -> str:
    """Several lines. costs: whole numbers; a column is as long as the longest time that divides them all."""
    stages = plural(table.chunks, "stage")
    lines = [f"{table.name}: {plural(table.ranks, 'rank')} with {stages} each, "
             f"micro-batches: {table.microbatches}"]
    unit = math.gcd(int(costs.forward), int(costs.input), int(costs.weight))
    lines += [draw(table, costs, unit=unit / table.chunks), ""]
    for rank, row in enumerate(table.rows):
        held = most_held(row) / table.chunks
        lines.append(f"rank {rank} holds the activations of at most {held:g} micro-batches")
    timeline = time_table(table, costs)
    lines.append(f"bubble {timeline.bubble:.1%}{_formula(table, costs)}")
    return "\n".join(lines)


def _formula(table: PipelineTable, costs: StageCosts) -> str:
    """What the formula says, where there is one."""
    try:
        expected = bubble_formula(table.name, table.ranks, table.microbatches, table.chunks, costs)
    except ValueError:
        return ""
    return f" (formula: {expected:.1%})"
