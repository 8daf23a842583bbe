"""What of a batch's way to the model its computation hides: measured on real processes, on an emulated link.

    serial     copy 0, distribute 0, compute 0, copy 1, distribute 1, compute 1, …
    threads    compute 0 │ distribute 1 │ copy 2      at the same time

The recommender, its table of items cut among the ranks, learns from fresh histories; ids travel to whoever
has their rows. Their link (parallel/link.py) is emulated, and as slow as makes distribution `ratio` times as
long as computation; rows and gradients go by gloo alone, the same with and without overlap. Notebook 07.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import torch
import torch.distributed as dist

from aiinfra.model.recommender import Histories, Recommender, RecommenderConfig
from aiinfra.parallel.launch import launch
from aiinfra.parallel.link import EmulatedLink
from aiinfra.parallel.overlap import InputPipeline, StageSpan
from aiinfra.parallel.recommender import RecommenderStages, RoutedHistories, dense_parameters, routed_loss
from aiinfra.parallel.recommender import shard_items
from aiinfra.perf.collectives import Link
from aiinfra.train.histories import World, generate

SHOP = World(items=500, shortest=16, longest=48)
SIZES = RecommenderConfig(items=500, width=64, heads=4, layers=2, max_len=48)
USERS = 48                             # of a rank's batch
_MESSAGES = 4                          # one after another in a distribution: a vote, counts, ids
_RATE = 0.1


@dataclass(frozen=True)
class BatchesOfARank:
    """What a rank did in one way ("serial" or "threads"): every stage of every batch, and what it learnt."""

    spans: list[StageSpan]             # "copy", "agree", "distribute", "wait", and "compute"
    losses: list[float]

    def seconds_of(self, *stages: str) -> float:
        """All time in these stages together; the first batch, for which everybody waits, left out."""
        chosen = [span for span in self.spans if span.stage in stages and span.number > 0]
        return sum(span.end - span.start for span in chosen)

    @property
    def step_seconds(self) -> float:
        """From the end of one computation to the end of the next: the median."""
        ends = [span.end for span in self.spans if span.stage == "compute"]
        return median(after - before for before, after in zip(ends, ends[1:]))


def measure_batches(hows: Sequence[str] = ("serial", "threads"), ranks: int = 2, steps: int = 12,
                    ratio: float = 0.8) -> list[dict[str, BatchesOfARank]]:
    """Train on `ranks` processes for `steps` batches in each way; what every rank did, by way."""
    return launch(batches_of_a_rank, ranks, list(hows), steps, ratio)


def batches_of_a_rank(hows: Sequence[str], steps: int, ratio: float) -> dict[str, BatchesOfARank]:
    """What each process of `measure_batches` runs."""
    latency = ratio * _computing_seconds() / _MESSAGES
    link = Link(latency_seconds=latency, bytes_per_second=125e6)
    with EmulatedLink(link) as emulated:
        votes, ids = emulated.group(), emulated.group()
        return {how: _train(how, steps, votes, ids) for how in hows}


class _FreshHistories:
    """Batches of this rank's own users, made when they are asked for; each pass gives the same."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __iter__(self) -> Iterator[Histories]:
        for step in range(self.steps):
            seed = step * dist.get_world_size() + dist.get_rank()
            yield generate(SHOP, USERS, seed)


def _train(how: str, steps: int, votes: dist.ProcessGroup, ids: dist.ProcessGroup) -> BatchesOfARank:
    model = _sharded_model()
    stages = RecommenderStages(SHOP.items, ids, ids)
    losses, computed = [], []
    dist.barrier()
    with InputPipeline(_FreshHistories(steps), stages, group=votes, how=how) as pipeline:
        for number, batch in enumerate(pipeline):
            start = time.perf_counter()
            losses.append(_step(model, batch))
            end = time.perf_counter()
            computed.append(StageSpan(stage="compute", number=number, start=start, end=end))
    return BatchesOfARank(spans=[*pipeline.spans, *computed], losses=losses)


def _step(model: Recommender, batch: RoutedHistories) -> float:
    """Forward, backward, sums, and a step of plain gradient descent; the mean loss of all ranks' events."""
    events = torch.tensor(float(len(batch.histories.items) - len(batch.histories)))
    dist.all_reduce(events)
    loss = routed_loss(model, batch, int(events))
    loss.backward()
    for parameter in dense_parameters(model):
        dist.all_reduce(parameter.grad)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= _RATE * parameter.grad
    model.zero_grad()
    total = loss.detach()
    dist.all_reduce(total)
    return float(total)


def _sharded_model() -> Recommender:
    torch.manual_seed(0)
    model = Recommender(SIZES)
    shard_items(model, dist.group.WORLD)
    return model


def _computing_seconds() -> float:
    """Of a step whose batch is there: the least of some, on the slowest rank."""
    stages = RecommenderStages(SHOP.items, dist.group.WORLD, dist.group.WORLD)
    batch = stages.distribute(generate(SHOP, USERS, seed=dist.get_rank()))
    model, seconds = _sharded_model(), []
    for _ in range(5):
        start = time.perf_counter()
        _step(model, batch)
        seconds.append(time.perf_counter() - start)
    slowest = torch.tensor(min(seconds))
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    return float(slowest)
