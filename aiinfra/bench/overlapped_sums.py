"""What of the gradients' sums a rank's computation hides: measured on real processes, on an emulated link.

    one after the other   ████ forward ████ backward ████▒▒▒▒▒▒▒ sums ▒▒▒▒▒▒▒
    overlapped            ████ forward ████ backward ████▒▒                   a bucket leaves when it is full
                                     ▒▒▒▒▒ link ▒▒▒▒▒▒▒▒▒▒

The link (parallel/link.py) is as fast as makes communication `ratio` times as long as computation: so figures
do not depend on the machine, and no claim about a network is in them. Everything else is real: processes,
gradients, sums, timestamps. The ways take their steps by turns. Notebook 07.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from aiinfra.bench.train import random_texts
from aiinfra.model import ModelConfig, Transformer
from aiinfra.parallel.data import BucketedAllReduce
from aiinfra.parallel.launch import launch
from aiinfra.parallel.link import EmulatedLink
from aiinfra.perf.collectives import Link, Volume, all_reduce
from aiinfra.train.data import MicroBatch
from aiinfra.train.loop import next_token_loss

Span = tuple[float, float]

SHAPE = ModelConfig(                   # 1.9 million weights: 7.6 MB of gradients
    vocab_size=512,
    hidden_size=192,
    num_hidden_layers=4,
    num_attention_heads=6,
    num_key_value_heads=6,
    head_dim=32,
    intermediate_size=512,
    tie_word_embeddings=True)
ROWS, LENGTH = 3, 128                  # of a rank's step, in tokens
LATENCY_SECONDS = 5e-4                 # of a message on the emulated link


@dataclass(frozen=True)
class Way:
    """How gradients are summed: in buckets of at most so many bytes, during the backward pass or after it."""

    bucket_bytes: int
    overlapped: bool = True


@dataclass(frozen=True)
class OverlapStep:
    """One step of one rank: when it computed and when its link was busy; seconds on the machine's clock."""

    start: float
    end: float
    computing: list[Span]              # forward, backward
    transfers: list[Span]

    @property
    def seconds(self) -> float:
        """From the first computation to the last sum."""
        return self.end - self.start

    @property
    def link_seconds(self) -> float:
        """How long the link was busy."""
        return sum(end - start for start, end in self.transfers)

    @property
    def exposed_seconds(self) -> float:
        """How long nothing was computed, for want of a sum."""
        return self.seconds - sum(end - start for start, end in self.computing)

    @property
    def hidden_seconds(self) -> float:
        """How long the link was busy while something was computed."""
        return sum(_common(one, other) for one in self.transfers for other in self.computing)


def _common(one: Span, other: Span) -> float:
    return max(0.0, min(one[1], other[1]) - max(one[0], other[0]))


@dataclass(frozen=True)
class SumsOfARank:
    """What a rank measured: by way, its steps; and the emulated link that all had."""

    link: Link
    steps: dict[Way, list[OverlapStep]]
    sent: Volume                       # of one step, in one bucket
    equal: bool                        # every way has given the same gradients, bit for bit

    def median_step(self, way: Way) -> OverlapStep:
        """The one in the middle, by its length."""
        ordered = sorted(self.steps[way], key=lambda step: step.seconds)
        return ordered[len(ordered) // 2]


def measure_sums(ways: Sequence[Way], ranks: int = 2, steps: int = 5,
                 ratio: float = 1.0) -> list[SumsOfARank]:
    """Train on `ranks` processes for `steps` steps in each way, by turns; what every rank measured."""
    return launch(sums_of_a_rank, ranks, list(ways), steps, ratio)


def sums_of_a_rank(ways: Sequence[Way], steps: int, ratio: float) -> SumsOfARank:
    """What each process of `measure_sums` runs."""
    batch = _rows_of_this_rank()
    seconds = _computing_seconds(batch)
    models = {way: _small_model() for way in ways}
    nbytes = sum(parameter.nbytes for parameter in models[ways[0]].parameters())
    sent = all_reduce(nbytes, dist.get_world_size())
    transfer = ratio * seconds - sent.messages * LATENCY_SECONDS
    link = Link(LATENCY_SECONDS, bytes_per_second=sent.sent_bytes / max(transfer, 1e-3))
    found: dict[Way, list[OverlapStep]] = {way: [] for way in ways}
    with EmulatedLink(link) as emulated:
        group = emulated.group()
        trainers = {way: _Summed(model, way, group, emulated) for way, model in models.items()}
        for _ in range(steps):
            for way, trainer in trainers.items():
                found[way].append(trainer.step(batch))
    first, *others = (trainer.gradients() for trainer in trainers.values())
    equal = all(torch.equal(first, other) for other in others)
    return SumsOfARank(link=link, steps=found, sent=sent, equal=equal)


class _Summed:
    """A model whose gradients are summed over the ranks in one way."""

    def __init__(self, model: Transformer, way: Way, group: dist.ProcessGroup,
                 emulated: EmulatedLink) -> None:
        self.model = model
        self.way = way
        self.emulated = emulated
        self.sums = BucketedAllReduce(model.parameters(), group, way.bucket_bytes)

    def step(self, batch: MicroBatch) -> OverlapStep:
        """Forward, backward and sums, together with the other ranks."""
        self.model.zero_grad()
        before = len(self.emulated.transfers)
        # Told to wait for a second pass that never comes, the buckets stay until `finish`.
        self.sums.expect(1 if self.way.overlapped else 2)
        dist.barrier()
        start = time.perf_counter()
        loss = next_token_loss(self.model, batch, batch.valid)
        forward = time.perf_counter()
        loss.backward()
        backward = time.perf_counter()
        self.sums.finish()
        transfers = self.emulated.transfers[before:]
        return OverlapStep(
            start=start,
            end=time.perf_counter(),
            computing=[(start, forward), (forward, backward)],
            transfers=[(transfer.start, transfer.end) for transfer in transfers])

    def gradients(self) -> Tensor:
        """All of them, in a row."""
        return torch.cat([parameter.grad.flatten() for parameter in self.model.parameters()])


def _small_model() -> Transformer:
    torch.manual_seed(0)
    return Transformer(SHAPE)


def _rows_of_this_rank() -> MicroBatch:
    return random_texts([LENGTH] * ROWS, SHAPE.vocab_size, seed=dist.get_rank())


def _computing_seconds(batch: MicroBatch) -> float:
    """Of forward and backward without any sum: the least of some steps, on the slowest rank."""
    model, seconds = _small_model(), []
    for _ in range(5):
        dist.barrier()
        start = time.perf_counter()
        next_token_loss(model, batch, batch.valid).backward()
        seconds.append(time.perf_counter() - start)
    slowest = torch.tensor(min(seconds))
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    return float(slowest)
