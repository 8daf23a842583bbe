"""What ranks run for test_overlap.py and test_rows.py."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from aiinfra.model.recommender import Histories, Recommender, RecommenderConfig
from aiinfra.parallel.overlap import InputPipeline, OtherRankFailed
from aiinfra.parallel.recommender import RecommenderStages, dense_parameters, routed_loss, shard_items
from aiinfra.train.histories import World, generate

STAGE_SECONDS = 0.05
WORLD = World(items=29, shortest=3, longest=8)
CONFIG = RecommenderConfig(items=29, width=16, heads=2, layers=2, max_len=8)


class Broken(Exception):
    """What a test lets go wrong."""


@dataclass
class SlowStages:
    """Each takes its time; a batch is its number, and the sum of what all ranks have for it."""

    seconds: float = 0.0
    breaks: dict[str, int] = field(default_factory=dict)      # stage -> batch
    group: dist.ProcessGroup | None = None

    def copy(self, item: int) -> int:
        time.sleep(self.seconds)
        self._perhaps_break("copy", item)
        return item

    def distribute(self, batch: int) -> tuple[int, int]:
        time.sleep(self.seconds)
        self._perhaps_break("distribute", batch)
        everybody = torch.tensor([batch])
        if self.group is not None:
            dist.all_reduce(everybody, group=self.group)
        return batch, int(everybody)

    def _perhaps_break(self, stage: str, item: int) -> None:
        if self.breaks.get(stage) == item:
            raise Broken(f"{stage} of {item}")


def own_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "input pipeline" in thread.name]


def groups() -> tuple[dist.ProcessGroup, dist.ProcessGroup]:
    return dist.new_group(backend="gloo"), dist.new_group(backend="gloo")


def uneven(lengths: list[int], how: str, epochs: int = 1) -> list[dict[str, Any]]:
    """Each rank has so many batches; what it saw of each epoch."""
    votes, own = groups()
    source = list(range(lengths[dist.get_rank()]))
    seen = []
    with InputPipeline(source, SlowStages(group=own), group=votes, how=how) as pipeline:
        for _ in range(epochs):
            before, pipeline.unused[:] = len(pipeline.spans), []
            batches = list(pipeline)
            agreements = [span for span in pipeline.spans[before:] if span.stage == "agree"]
            seen.append({
                "batches": batches,
                "agreements": len(agreements),
                "unused": list(pipeline.unused),
                "threads": own_threads()})
    return seen


def asked_after_the_end() -> int:
    """Rank 0 asks on and on after the end, alone."""
    votes, own = groups()
    pipeline = InputPipeline([1, 2], SlowStages(group=own), group=votes)
    batches = iter(pipeline)
    seen = len(list(batches))
    if dist.get_rank() == 0:
        seen += sum(next(batches, None) is not None for _ in range(5))
    return seen


def broken(stage: str, rank: int, how: str) -> dict[str, Any]:
    """A stage of one rank breaks at batch 2 of 5."""
    votes, own = groups()
    breaks = {stage: 2} if rank == dist.get_rank() else {}

    def source() -> Iterator[int]:
        for item in range(5):
            if breaks.get("source") == item:
                raise Broken(f"source of {item}")
            yield item
    seen, told = [], ""
    stages = SlowStages(breaks=breaks, group=own)
    with InputPipeline(source(), stages, group=votes, how=how) as pipeline:
        try:
            for batch, _ in pipeline:
                seen.append(batch)
        except (Broken, OtherRankFailed) as error:
            told = type(error).__name__
    return {"seen": seen, "told": told, "unused": pipeline.unused, "threads": own_threads()}


def left_early() -> dict[str, Any]:
    """All ranks stop after two of six batches, one of them slower than the other, and begin anew."""
    votes, own = groups()
    seen = []
    stages = SlowStages(seconds=0.02 * dist.get_rank(), group=own)
    with InputPipeline(list(range(6)), stages, group=votes) as pipeline:
        for _ in range(3):
            for batch, _ in pipeline:
                seen.append(batch)
                if batch == 1:
                    break
    return {"seen": seen, "unused": pipeline.unused, "threads": own_threads()}


# test_rows.py

def train(how: str, steps: int, users: int) -> dict[str, Any]:
    """Plain gradient descent on the recommender, its table cut among the ranks; rank r of R takes users r,
    r + R, …"""
    ranks, rank = dist.get_world_size(), dist.get_rank()
    votes, ids = groups()
    model = make_model()
    shard_items(model, dist.group.WORLD)
    source = [part_of(generate(WORLD, users, seed), rank, ranks) for seed in range(steps)]
    stages = RecommenderStages(CONFIG.items, ids, ids)
    losses, gradients = [], {}
    with InputPipeline(source, stages, group=votes, how=how) as pipeline:
        for step, batch in enumerate(pipeline):
            events = torch.tensor([len(batch.histories.items) - len(batch.histories)])
            dist.all_reduce(events)
            loss = routed_loss(model, batch, int(events))
            loss.backward()
            for parameter in dense_parameters(model):
                dist.all_reduce(parameter.grad)
            if step == 0:
                gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
            descend(model)
            dist.all_reduce(loss.detach())
            losses.append(float(loss.detach()))
    return {"losses": losses, "gradients": gradients, "weights": model.state_dict()}


def make_model() -> Recommender:
    torch.manual_seed(0)
    return Recommender(CONFIG).double()


def descend(model: Recommender) -> None:
    for parameter in model.parameters():
        parameter.data -= 0.5 * parameter.grad
        parameter.grad = None


def part_of(histories: Histories, rank: int, ranks: int) -> Histories:
    """The users rank, rank + ranks, …"""
    users = histories.users()[rank::ranks]
    lengths = torch.tensor([0] + [len(items) for items, _ in users])
    return Histories(
        torch.cat([items for items, _ in users]),
        torch.cat([seconds for _, seconds in users]),
        lengths.cumsum(0).int())


def rows_of(ids_of_ranks: list[list[int]]) -> dict[str, Any]:
    """A table of 7 rows on the ranks: what comes for the ids, and the gradient of the rows here."""
    from aiinfra.parallel.rows import RowShardedEmbedding, find_route
    world = dist.group.WORLD
    torch.manual_seed(0)
    table = RowShardedEmbedding(torch.nn.Embedding(7, 2, dtype=torch.float64), world)
    ids = torch.tensor(ids_of_ranks[dist.get_rank()], dtype=torch.int64)
    route = find_route(ids, 7, world, world)
    rows = table(route)
    (rows * (1.0 + dist.get_rank())).sum().backward()
    return {"rows": rows.detach(), "gradient": table.weight.grad, "asked": route.asked}
