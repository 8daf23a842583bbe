"""What the ranks of test_pipeline.py run."""

from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import nn

from aiinfra.model.balance import begin_step, end_step, routers_of
from aiinfra.model.moe_config import MoEConfig
from aiinfra.model.packed_documents import PackedDocuments
from aiinfra.parallel.mesh import make_mesh
from aiinfra.parallel.orders import make_table
from aiinfra.parallel.parallelize import ParallelOptions, parallelize
from aiinfra.parallel.pipeline import Pipeline
from aiinfra.parallel.saved import SavedBytes
from aiinfra.parallel.stages import cut_stages
from aiinfra.train.data import IGNORED, MicroBatch
from tests.parallel.small import small_model


def phase(name):
    return nullcontext()


def batches(count, ragged=True):
    """Of different lengths; the third has no valid token."""
    random = torch.Generator().manual_seed(1)
    made = []
    for number in range(count):
        tokens = 9 + 3 * (number * 5 % 7) if ragged else 16
        ids = torch.randint(0, 48, (tokens + 1,), generator=random)
        border = int(torch.randint(1, tokens, (), generator=random))
        kept = torch.rand(tokens, generator=random) > number % 4 / 4
        if number == 2:
            kept = torch.zeros(tokens, dtype=torch.bool)
        lengths = [border, tokens - border]
        borders = torch.tensor([0, border, tokens], dtype=torch.int32)
        made.append(MicroBatch(
            tokens=ids[:-1],
            targets=torch.where(kept, ids[1:], IGNORED),
            positions=torch.cat([torch.arange(length) for length in lengths]),
            documents=PackedDocuments(borders, longest=max(lengths)),
            valid=int(kept.sum()),
            text_bytes=0))
    return made


def pipeline_of(schedule, ranks, microbatches, variant, layers, chunks=None):
    """A rank's stages of the small model, and its pipeline."""
    mesh = make_mesh({"pp": ranks})
    table = make_table(schedule, ranks, microbatches, chunks)
    model = cut_stages(small_model(variant, num_hidden_layers=layers), mesh, table)
    return model, Pipeline(model, mesh, schedule, microbatches, chunks=chunks)


def run(pipeline, window):
    return pipeline(window, sum(batch.valid for batch in window), phase)


def gradients(schedule, ranks, counts, variant, layers, chunks=None):
    """Of a step with each count of micro-batches: loss, gradients by name, actions in order."""
    model, pipeline = pipeline_of(schedule, ranks, counts[0], variant, layers, chunks)
    found = []
    for count in counts:
        model.zero_grad()
        loss = run(pipeline, batches(count))
        for parameter, group in model.tied.items():
            dist.all_reduce(parameter.grad, group=group)
        named = {name: parameter.grad for name, parameter in model.named_parameters()}
        found.append((loss, named, [str(span.action) for span in pipeline.spans]))
    return found


def table_row(schedule, rank):
    return [str(action) for action in make_table(schedule, 2, 4, 2).rows[rank]]


def held(schedule, ranks, microbatches):
    """The high-water mark of this rank, in what one micro-batch leaves in one of its stages."""
    chunks = make_table(schedule, ranks, microbatches).chunks
    model, pipeline = pipeline_of(schedule, ranks, microbatches, "plain", 2 * ranks * chunks)
    window = batches(microbatches, ragged=False)
    most = []
    for count in (1, microbatches):
        with SavedBytes(model) as saved:
            run(pipeline, window[:count])
        assert saved.now == 0, "all is let go after the step"
        most.append(saved.most)
    return most[1] / most[0] * chunks, chunks


def refused(schedule, microbatches, layers):
    mesh = make_mesh({"pp": 2})
    model = small_model("tied", num_hidden_layers=layers)
    table = None
    if schedule == "untied":
        schedule = "1f1b"
        model.lm_head.weight = nn.Parameter(model.embed.weight.detach().clone())
    if schedule == "a table for 3":
        table = schedule = make_table("gpipe", 3, microbatches)
    if schedule == "a table of 3":
        table = schedule = make_table("gpipe", 2, 3)
    kept = cut_stages(model, mesh, table or make_table(schedule, 2, microbatches))
    Pipeline(kept, mesh, schedule, microbatches).table(microbatches)


EXPERTS = MoEConfig(
    num_experts=4,
    num_experts_per_tok=2,
    moe_intermediate_size=16,
    scoring_func="sigmoid",
    first_k_dense_replace=2,
    router_aux_loss_coef=0.1,
    bias_update_speed=0.01)


def mixture(passes, model, window):
    """A step over layers with and without experts: loss, gradients, and each expert's choices."""
    begin_step(model, sum(batch.valid for batch in window))
    loss = run(passes, window)
    end_step(model, lambda counts: None)
    named = {name: parameter.grad for name, parameter in model.named_parameters()}
    named |= {name: buffer for name, buffer in model.named_buffers() if name.endswith("router.bias")}
    counted = [router.balance.counts.tolist() for router in routers_of(model)]
    return loss, named, counted


def mixture_on_ranks(schedule, ranks, microbatches):
    mesh = make_mesh({"pp": ranks})
    table = make_table(schedule, ranks, microbatches)
    model = cut_stages(small_model(num_hidden_layers=4, moe=EXPERTS), mesh, table)
    return mixture(Pipeline(model, mesh, schedule, microbatches), model, batches(microbatches))


def sharded(schedule):
    mesh = make_mesh({"pp": 2, "fsdp": 2})
    model = small_model(num_hidden_layers=2)
    parallelize(model, mesh, 4, ParallelOptions(schedule=schedule))
