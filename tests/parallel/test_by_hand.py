"""By hand equals PyTorch's own, and one process, in float64; what is sent and held is as formulas say."""

from functools import partial

import pytest
import torch
from tests.parallel import by_hand_ranks as ranks
from torch import nn

from aiinfra.lab.threads import in_threads
from aiinfra.parallel.by_hand import HandStage, all_gather, all_reduce, cut, gpipe, one_f_one_b
from aiinfra.parallel.by_hand import reduce_scatter, sharded_linear
from aiinfra.parallel.communicator import in_processes

close = partial(torch.testing.assert_close, rtol=0, atol=1e-12)


def all_close(values):
    first, *others = values
    for other in others:
        close(first, other)


# Against PyTorch's, in real processes


@pytest.mark.program
@pytest.mark.parametrize("count, shape", [(2, (4, 6)), (3, (5, 7)), (4, (3,))])
def test_sums_equal_pytorch_s(count, shape):
    for whole, again, theirs in in_processes(ranks.sums, count, shape):
        close(whole, theirs)
        close(again, theirs)


@pytest.mark.program
@pytest.mark.parametrize("count", [2, 4])
def test_column_and_row_linear_equal_dtensor_s(count):
    for pairs in in_processes(ranks.tensor_parallel, count):
        for pair in pairs:
            all_close(pair)


@pytest.mark.program
@pytest.mark.parametrize("count", [2, 3])
def test_sharded_weights_equal_fsdp_and_one_process(count):
    for layers in in_processes(ranks.sharded, count):
        for three in layers:
            all_close(three)


@pytest.mark.program
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
@pytest.mark.parametrize("count, micro_batches", [(2, 2), (2, 5), (4, 6)])
def test_a_pipeline_equals_pytorch_s_and_one_process(schedule, count, micro_batches):
    seen = in_processes(ranks.pipeline, count, schedule, micro_batches)
    for rank, one in enumerate(seen):
        all_close(one["gradients"])
        assert one["losses"][0] == one["losses"][1]
        most = micro_batches if schedule == "gpipe" else min(micro_batches, count - rank)
        assert one["held"] == most
    assert len(seen[-1]["losses"][0]) == micro_batches


# Alone


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_three_steps_of_zero_equal_one_process(count):
    for pairs in in_threads(ranks.zero, count):
        for pair in pairs:
            all_close(pair)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_pieces_are_those_of_cut_whatever_the_shape(count):
    tensors = [torch.arange(12.0).view(3, 4) * (rank + 1) for rank in range(count)]

    def work(comm):
        mine = tensors[comm.rank]
        close(reduce_scatter(mine, comm), cut(sum(tensors), comm))
        close(all_gather(cut(mine, comm), mine, comm).flatten()[cut(torch.arange(12), comm)], cut(mine, comm))
        return all_reduce(mine, comm)

    for whole in in_threads(work, count):
        close(whole, sum(tensors))


@pytest.mark.parametrize("call, share, messages", [(reduce_scatter, 1, 1), (all_reduce, 2, 2)])
def test_a_ring_sends_the_same_from_every_rank(call, share, messages):
    def work(comm):
        call(torch.ones(8, 6), comm)
        return comm.sent.nbytes, comm.sent.messages

    assert in_threads(work, 4) == [(share * 3 / 4 * 48 * 4, messages * 3)] * 4


def test_a_sharded_layer_sends_half_as_much_again_as_an_all_reduce():
    def work(comm):
        piece = torch.ones(16, requires_grad=True)
        sharded_linear(torch.ones(2, 8), piece, torch.empty(8, 8, device="meta"), comm).sum().backward()
        return comm.sent.nbytes

    assert in_threads(work, 4) == [3 * 3 / 4 * 64 * 4] * 4


@pytest.mark.parametrize("stages, micro_batches", [(1, 3), (4, 2), (4, 4), (4, 9)])
def test_rows_go_forward_before_backward_and_hold_what_the_formula_says(stages, micro_batches):
    for stage in range(stages):
        for make in (gpipe, one_f_one_b):
            row = make(stage, stages, micro_batches)
            held = [row[:i].count("F") - row[:i].count("B") for i in range(len(row) + 1)]
            assert min(held) == held[-1] == 0 and row.count("F") == micro_batches
            most = micro_batches if make is gpipe else min(micro_batches, stages - stage)
            assert max(held) == most


@pytest.mark.parametrize("row", ["", "FB", "FFFBB", "FBBFFB", "FFBBFX"])
def test_a_row_that_cannot_be_run_is_refused_before_anything_is_sent(row):
    def work(comm):
        HandStage(nn.Identity(), lambda y, i: y.sum(), comm).run(row, [torch.ones(1)] * 3)

    with pytest.raises(ValueError, match="it needs 3 F and 3 B, each B after its F"):
        in_threads(work, 2)


def test_an_emulated_device_takes_its_time():
    def work(comm):
        stage = HandStage(nn.Linear(2, 2), lambda y, i: y.sum(), comm, pace=0.01)
        stage.run("FB", [torch.ones(1, 2)])
        return [span.end - span.start for span in stage.spans]

    (forward, backward), = in_threads(work, 1)
    assert forward >= 0.01 and backward >= 0.02
