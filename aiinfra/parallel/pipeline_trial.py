"""A pipeline tried out: a few steps of a small model on real processes, each action timed where it ran.

    try_pipeline("1f1b", ranks=2, microbatches=8, least=StageCosts(0.02, 0.02, 0.02))
        .timeline   who did what when, of the quickest step     .held   activations, by rank, at most

Two cores are no cluster. `least` makes each action last a given time, most of it asleep: layers of a stated
size, emulated, while processes, messages and gradients are real; without it a rank is as fast as the core
that it finds. Notebook 06.
"""

from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist

from aiinfra.model.config import ModelConfig
from aiinfra.model.packed_documents import PackedDocuments
from aiinfra.model.transformer import Transformer
from aiinfra.parallel.launch import launch, rank_device
from aiinfra.parallel.mesh import make_mesh
from aiinfra.parallel.orders import make_table
from aiinfra.parallel.pipeline import Pipeline
from aiinfra.parallel.saved import SavedBytes
from aiinfra.parallel.stages import RankLayers, cut_stages
from aiinfra.parallel.timing import StageCosts, Timeline
from aiinfra.train.data import MicroBatch

SMALL = ModelConfig(
    vocab_size=256,
    hidden_size=64,
    num_hidden_layers=1,                  # of each stage
    num_attention_heads=4,
    num_key_value_heads=4,
    head_dim=16,
    intermediate_size=128)


@dataclass(frozen=True)
class PipelineTrial:
    """What was measured. held: by rank, the most bytes of activations at a time, over those that one
    micro-batch leaves in all stages of the rank."""

    timeline: Timeline
    held: tuple[float, ...]


@dataclass(frozen=True)
class _Task:
    """What every rank is told."""

    schedule: str
    chunks: int | None
    microbatches: int
    least: StageCosts | None
    config: ModelConfig
    tokens: int
    steps: int


def try_pipeline(schedule: str, ranks: int, microbatches: int, *, chunks: int | None = None,
                 least: StageCosts | None = None, config: ModelConfig = SMALL, tokens: int = 64,
                 steps: int = 2) -> PipelineTrial:
    """Take so many steps on so many processes. config: its layers are those of each stage. least: seconds of
    a rank's share, which actions take at least.

    Raises ScheduleError for a schedule that cannot be, before a process is started, and RankFailed.
    """
    table = make_table(schedule, ranks, microbatches, chunks)
    layers = config.num_hidden_layers * table.stages
    task = _Task(
        schedule=schedule,
        chunks=chunks,
        microbatches=microbatches,
        least=least,
        config=replace(config, num_hidden_layers=layers),
        tokens=tokens,
        steps=steps)
    told = launch(_on_a_rank, ranks, task)
    timeline, _ = told[0]                                     # which all ranks have alike
    return PipelineTrial(timeline, held=tuple(held for _, held in told))


def _on_a_rank(task: _Task) -> tuple[Timeline, float]:
    mesh = make_mesh({"pp": dist.get_world_size()})
    torch.manual_seed(0)
    model = Transformer(task.config).to(rank_device())
    table = make_table(task.schedule, mesh.size(), task.microbatches, task.chunks)
    layers = cut_stages(model, mesh, table)
    pipeline = Pipeline(layers, mesh, task.schedule, task.microbatches, chunks=task.chunks)
    window = [_micro_batch(task) for _ in range(task.microbatches)]
    held = _held(pipeline, layers, window)
    pipeline.least = task.least
    timelines = []
    for _ in range(task.steps):
        _step(pipeline, window)
        timelines.append(pipeline.timeline())
    return min(timelines, key=lambda timeline: timeline.seconds), held


def _held(pipeline: Pipeline, layers: RankLayers, window: list[MicroBatch]) -> float:
    """Also the first steps, which find connections and memory."""
    most = []
    for part in (window[:1], window):
        with SavedBytes(layers) as saved:
            _step(pipeline, part)
        most.append(saved.most)
    one, all_of_them = most
    return all_of_them / one


def _step(pipeline: Pipeline, window: list[MicroBatch]) -> None:
    pipeline(window, sum(batch.valid for batch in window), lambda phase: nullcontext())


def _micro_batch(task: _Task) -> MicroBatch:
    tokens = task.tokens
    ids = torch.randint(0, task.config.vocab_size, (tokens + 1,))
    return MicroBatch(
        tokens=ids[:-1],
        targets=ids[1:],
        positions=torch.arange(tokens),
        documents=PackedDocuments(torch.tensor([0, tokens], dtype=torch.int32), longest=tokens),
        valid=tokens,
        text_bytes=0)
