"""A training step as a GPU is asked for it: what it launches, that nothing but its two numbers is waited for,
and that the next step needs nothing compiled."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import pytest
import torch
from tests.engine.fake_traffic import CONFIGS

from aiinfra.bench.gpu import random_model
from aiinfra.gpu.compile import variant_report
from aiinfra.gpu.compile_table import as_text
from aiinfra.gpu.fake import FakeGPU, fake_gpu
from aiinfra.gpu.variants import Variant
from aiinfra.model import Transformer
from aiinfra.model.packed_documents import PackedDocuments
from aiinfra.model.recommender import Recommender, RecommenderConfig
from aiinfra.train.data import MicroBatch
from aiinfra.train.histories import World
from aiinfra.train.loop import loop
from aiinfra.train.optimizer import Schedule, adamw
from aiinfra.train.recommender import training
from aiinfra.train.recompute import recompute

pytest.importorskip("triton")
NUMBERS = ["waits for the GPU: _local_scalar_dense"] * 2          # loss and norm: may this step be taken?
LAYERS = 2
KINDS = ["plain", "norms of q and k", "wide heads", "experts"]


def documents(*lengths: int) -> MicroBatch:
    """Of these lengths, on the CPU."""
    total = sum(lengths)
    borders = torch.tensor([0, *lengths]).cumsum(0).int()
    tokens = torch.ones(total, dtype=torch.int64)
    return MicroBatch(tokens=tokens, targets=tokens,
                      positions=torch.cat([torch.arange(length) for length in lengths]),
                      documents=PackedDocuments(borders, longest=max(lengths)), valid=total, text_bytes=total)


def steps(model: Transformer, count: int, batches: list[MicroBatch], **options) -> Iterator:
    """Train for so many steps."""
    yield from islice(loop(model, batches, adamw(model), Schedule(peak=1e-3, steps=9), **options), count)


def model_on(gpu: FakeGPU, kind: str, policy: str = "none") -> Transformer:
    """Of float32 weights, as the trainer wants them."""
    config = replace(CONFIGS[kind], num_hidden_layers=LAYERS)
    model = random_model(config, gpu.device, torch.float32).train().requires_grad_(True)
    recompute(model, policy)
    return model


def kernels(gpu: FakeGPU, since: int = 0) -> Counter[str]:
    """How often each kernel of ours was launched from number `since` on."""
    return Counter(f"{one.module}.{one.name}" for one in gpu.started[since:] if one.variant is not None)


@pytest.mark.compile                   # it compiles nothing, but is not for `make quick`
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_step_waits_for_two_numbers_and_the_next_one_compiles_nothing(kind, autocast) -> None:
    with fake_gpu(numbers=True) as gpu:
        model = model_on(gpu, kind)
        batches = [documents(33, 30), documents(48), documents(17, 5, 10), documents(64), documents(1, 1)]
        gpu.complaints.clear()
        step = steps(model, 5, batches, autocast=autocast)
        assert next(step).tokens == 63 and gpu.complaints == NUMBERS
        counts, known = kernels(gpu), gpu.variants()
        assert counts["flash_attention._forward_kernel"] == counts["flash_backward._dq_kernel"] == LAYERS
        assert counts["rope._rope_kernel"] == 2 * LAYERS and counts["rmsnorm._backward_kernel"] > 2 * LAYERS
        assert {one.name for one in gpu.started} >= {"_fused_adamw_", "embedding", "mm"}
        assert all(parameter.grad.is_cuda for parameter in model.parameters())
        before = len(gpu.started)
        assert len(list(step)) == 4 and gpu.complaints == 5 * NUMBERS
        assert gpu.variants(before) <= known, "compiled in mid-training"


def test_what_is_done_again_is_launched_again() -> None:
    """Micro-batches add up: two of them are twice the kernels, and one update."""
    launched = {}
    for policy, accumulate in (("none", 1), ("block", 1), ("none", 2)):
        with fake_gpu(numbers=True) as gpu:
            model = model_on(gpu, "plain", policy)
            list(steps(model, 1, [documents(33, 30)] * accumulate, accumulate=accumulate))
            launched[policy, accumulate] = kernels(gpu)
            assert sum(one.name == "_fused_adamw_" for one in gpu.started) == 2      # matrices, and vectors
    once, again, twice = launched.values()
    assert twice == Counter({name: 2 * count for name, count in once.items()})
    assert again["flash_attention._forward_kernel"] == 2 * once["flash_attention._forward_kernel"]
    assert again["flash_backward._dq_kernel"] == once["flash_backward._dq_kernel"]


def recommender_variants(gpu: FakeGPU) -> set[Variant]:
    """Train one for two steps on histories of other lengths."""
    with torch.device(gpu.device):
        model = Recommender(RecommenderConfig())
    gpu.complaints.clear()
    assert len(list(training(model, World(), steps=2, users=3))) == 2 and gpu.complaints == 2 * NUMBERS
    return gpu.variants()


def test_a_recommender_learns_from_its_own_kernels() -> None:
    with fake_gpu(numbers=True) as gpu:
        names = {f"{one.module}.{one.kernel}" for one in recommender_variants(gpu)}
    assert names >= {"hstu_attention._forward_kernel", "hstu_backward._column_kernel",
                     "hstu_backward._row_kernel", "hstu_backward._bias_kernel"}


@pytest.mark.compile
@pytest.mark.parametrize("arch", [120])
def test_what_training_would_have_compiled_compiles_and_fits(arch: int) -> None:
    """Not what a table foresees, but what a step asks for, with this chip's tiles."""
    with fake_gpu(arch=arch, numbers=True) as gpu:
        list(steps(model_on(gpu, "experts"), 1, [documents(33, 30)], autocast=torch.bfloat16))
        variants = gpu.variants() | recommender_variants(gpu)
    records = variant_report(variants, arch)
    assert len(records) == len(variants) >= 15
    assert all(record.fits for record in records), as_text(records)
