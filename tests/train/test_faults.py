"""Faults that users of other trainers have reported. What no other file of this folder guards is here.

    fault                                       seen in                        guarded by
    accumulation divides by micro-batch         transformers 34191, 35438      test_loop: parts, eight times
    the last window of an epoch is shorter      transformers 37766             test_loop: the last window
    the same over ranks; one without a token    OpenNMT-py 2209, OLMo-core 657 here
    resume: order of data, also in later epochs transformers 40691             test_data, test_state: going on
    resume: random states                       transformers 46628             test_state: every generator
    resume: the schedule one step off           several                        here
    recomputation: dropout                      OLMo-core 828                  test_recompute
    recomputation: autocast                     pytorch 141896                 here
    recomputation: compiled, with dropout       pytorch 190717                 test_compiled
    recomputation: experts counted twice        torchtitan 1117                (there are no experts yet)
    all targets masked: 0 / 0                   nanochat 618, pytorch 75181    test_loop: nothing to learn
    chunked cross-entropy: gradients, sums      Liger 968, 1391                test_cross_entropy, here
    packing: attention and positions            nanoVLM 204                    test_data
    evaluated before saved                      nanochat 295                   here
    a checkpoint that is cut short              several                        test_state, test_run
    peak memory 0 on a CPU                      nanochat 838                   test_loop: a record
    bytes of special tokens                     nanochat 693                   test_loop, test_corpus
    optimizer state in 16 bits                  nanochat 741                   test_loop: narrow weights
    decay groups and a tied table               several                        test_loop: a tied table
"""

import threading
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import nn

from aiinfra.kernels.cross_entropy import linear_cross_entropy
from aiinfra.train import run as run_module
from aiinfra.train.data import PackedStream
from aiinfra.train.loop import OneRank, loop, next_token_loss
from aiinfra.train.optimizer import Schedule, adamw
from aiinfra.train.recompute import recompute
from aiinfra.train.run import TrainingRun, read_lines
from aiinfra.train.step import TrainStep
from tests.train.stories import corpus, stories, tiny_model
from tests.train.test_run import SMALL

TEXT = corpus()
SCHEDULE = Schedule(peak=1e-2, steps=9, warmup=2)


class Threads(OneRank):
    """Ranks that are threads of this process."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=60)
        self.box = [None] * size

    def of(self, rank: int) -> "Threads":
        one = Threads.__new__(Threads)
        one.__dict__ = {**self.__dict__, "rank": rank}
        return one

    def exchanged(self, value):
        self.box[self.rank] = value
        self.barrier.wait()
        everybody = list(self.box)
        self.barrier.wait()
        return everybody

    def total(self, value: float) -> float:
        return sum(self.exchanged(value))

    def add_gradients(self, parameters: list[nn.Parameter]) -> None:
        mine = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        sums = [sum(each) for each in zip(*self.exchanged(mine))]
        self.barrier.wait()
        for parameter, whole in zip(parameters, sums):
            parameter.grad = whole


def masked(batch, kept: int):
    """Only the first `kept` targets are learnt from."""
    targets = torch.where(torch.arange(len(batch.targets)) < kept, batch.targets, -100)
    return replace(batch, targets=targets, valid=kept)


def test_two_ranks_are_one_also_if_one_has_no_valid_token() -> None:
    """The loss is divided by the valid tokens of all ranks; their numbers differ, and are none for one."""
    stream = PackedStream(TEXT, 32, 2, seed=0)
    shares = [(64, 5), (64, 0), (0, 0), (1, 40)]              # of each step: of one rank, of the other
    batches = [[masked(next(stream), kept) for kept in share] for share in shares]
    alone = tiny_model()
    flat = [batch for window in batches for batch in window]
    expected = list(loop(alone, flat, adamw(alone), SCHEDULE, accumulate=2))
    ranks, models = Threads(2), [tiny_model(), tiny_model()]
    found: list[list[TrainStep]] = [[], []]

    def run(rank: int) -> None:
        mine = [window[rank] for window in batches]
        model = models[rank]
        found[rank] += loop(model, mine, adamw(model), SCHEDULE, ranks=ranks.of(rank))
    threads = [threading.Thread(target=run, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, two, all_ in zip(*found, expected, strict=True):
        assert (one.loss, one.tokens) == pytest.approx((two.loss, two.tokens), nan_ok=True)
        assert one.loss == pytest.approx(all_.loss, rel=1e-5, nan_ok=True) and one.tokens == all_.tokens
        assert one.gradient_norm == pytest.approx(all_.gradient_norm, rel=1e-4)
        assert one.bits_per_byte == pytest.approx(all_.bits_per_byte, nan_ok=True)
    for mine, other, whole in zip(*(model.parameters() for model in (*models, alone))):
        assert torch.equal(mine, other)
        torch.testing.assert_close(mine, whole, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("policy", ["operation", "block"])
def test_recomputation_is_under_autocast_too(policy: str) -> None:
    """The backward pass runs outside the context, and must compute again in the forward pass's dtype."""
    results = []
    for chosen in ("none", policy):
        model, batch = tiny_model(), next(PackedStream(TEXT, 40, 3, seed=0))
        recompute(model, chosen)
        with torch.autocast("cpu", torch.bfloat16):
            loss = next_token_loss(model, batch, batch.valid)
        loss.backward()
        results.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_many_small_chunks_add_up_in_bf16() -> None:
    """Gradients of a weight over hundreds of chunks, against float32 logits all at once."""
    torch.manual_seed(0)
    hidden = torch.randn(2048, 16).bfloat16().requires_grad_()
    weight = torch.randn(50, 16).bfloat16().requires_grad_()
    targets = torch.randint(0, 50, (2048,))
    (linear_cross_entropy(hidden, weight, targets, rows=8) * 3).backward()
    wide = [tensor.detach().float().requires_grad_() for tensor in (hidden, weight)]
    (nn.functional.cross_entropy(wide[0] @ wide[1].T, targets) * 3).backward()
    for ours, theirs in zip((hidden, weight), wide):
        assert (ours.grad.float() - theirs.grad).norm() < 0.01 * theirs.grad.norm()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "stories.txt").write_text("\n\n".join(stories(60)))
    return tmp_path / "stories.txt"


def test_saved_before_evaluated(data: Path, tmp_path: Path, monkeypatch) -> None:
    """An evaluation that runs out of memory costs nothing that was learnt, and is made up for."""
    def too_large(*_):
        raise MemoryError("no room")
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(run_module, "evaluate", too_large)
        list(TrainingRun(data, tmp_path / "out", SMALL))
    run = TrainingRun(data, tmp_path / "out", SMALL, resume=True)
    assert run.step == SMALL.save_every and run.checkpoints.steps() == [SMALL.save_every]
    next(iter(run))
    assert [line["step"] for line in read_lines(tmp_path / "out" / "evaluations.jsonl")] == [SMALL.save_every]


def test_the_schedule_goes_on_at_the_right_step(data: Path, tmp_path: Path) -> None:
    list(islice(TrainingRun(data, tmp_path / "out", SMALL), 5))
    list(TrainingRun(data, tmp_path / "out", SMALL, resume=True))
    schedule = Schedule(peak=SMALL.learning_rate, steps=SMALL.steps, warmup=SMALL.steps // 10)
    rates = {line["step"]: line["learning_rate"] for line in read_lines(tmp_path / "out" / "metrics.jsonl")}
    assert rates == {step: schedule.learning_rate(step) for step in range(1, SMALL.steps + 1)}
