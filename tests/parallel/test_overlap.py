"""Batches come the same with and without overlap; all ranks end at the same step; no thread is left."""

import time
from dataclasses import dataclass

import pytest
import torch

from aiinfra.parallel import overlap
from aiinfra.parallel.launch import launch
from aiinfra.parallel.overlap import InputPipeline
from tests.parallel import pipelined
from tests.parallel.pipelined import Broken, SlowStages, own_threads

HOWS = ["threads", "streams", "serial"]
program = pytest.mark.program


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
def test_batches_come_in_order_however_they_are_made(how, count):
    with InputPipeline(range(count), SlowStages(), how=how) as pipeline:
        assert [batch for batch, _ in pipeline] == list(range(count))
        assert [batch for batch, _ in pipeline] == list(range(count)), "and again in a second pass"
    assert not pipeline.unused
    assert not own_threads()


def test_stages_overlap_on_threads_and_not_without():
    seconds, steps = 0.05, 8
    took = {}
    for how in ("threads", "serial"):
        start = time.perf_counter()
        with InputPipeline(range(steps), SlowStages(seconds), how=how) as pipeline:
            for _ in pipeline:
                time.sleep(seconds)
        took[how] = time.perf_counter() - start
    assert took["serial"] > 3 * steps * seconds
    assert took["threads"] < 0.6 * took["serial"]                 # 10 of 24 stages' lengths


def test_while_a_batch_is_computed_the_next_two_are_on_their_way():
    with InputPipeline(range(4), SlowStages(0.04)) as pipeline:
        batches = iter(pipeline)
        next(batches)
        start = time.perf_counter()
        time.sleep(0.12)                                          # the computation of batch 0
        end = time.perf_counter()
    inside = {(span.stage, span.number) for span in pipeline.spans if start - 0.01 < span.start < end}
    assert {("distribute", 1), ("copy", 2)} <= inside
    assert ("copy", 3) not in inside


def test_who_waits_is_told():
    with InputPipeline(range(3), SlowStages(0.03), how="serial") as pipeline:
        assert len(list(pipeline)) == 3
    waits = [span.end - span.start for span in pipeline.spans if span.stage == "wait"]
    assert len(waits) == 3 and min(waits) >= 0.06


def test_a_second_pass_over_an_iterator_is_refused():
    """TorchRec #2670, #2327: a second epoch that is silently empty."""
    with InputPipeline(iter([1, 2]), SlowStages()) as pipeline:
        assert len(list(pipeline)) == 2
        with pytest.raises(ValueError, match="a second would be empty"):
            iter(pipeline)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("stage", ["copy", "distribute"])
def test_what_breaks_is_raised_in_its_turn(stage, how):
    seen = []
    with InputPipeline(range(5), SlowStages(breaks={stage: 2}), how=how) as pipeline:
        with pytest.raises(Broken, match=f"{stage} of 2"):
            for batch, _ in pipeline:
                seen.append(batch)
    assert seen == [0, 1]
    assert not own_threads()


@pytest.mark.parametrize("trouble", [KeyboardInterrupt, ValueError])
def test_trouble_in_the_computation_leaves_no_thread(trouble):
    with pytest.raises(trouble):
        with InputPipeline(range(9), SlowStages(0.01)) as pipeline:
            for batch, _ in pipeline:
                if batch == 1:
                    raise trouble
    assert not own_threads()
    assert pipeline.unused == [2, 3], "what was on its way is not lost"


def test_a_stop_while_waiting_leaves_no_thread():
    """Ctrl-C comes while the caller waits for its batch."""
    class Interrupted(SlowStages):
        def distribute(self, batch):
            raise KeyboardInterrupt
    with InputPipeline(range(3), Interrupted()) as pipeline, pytest.raises(KeyboardInterrupt):
        next(iter(pipeline))
    assert not own_threads()


def test_what_is_not_known_is_refused():
    with pytest.raises(ValueError, match="how='fast' is not known"):
        InputPipeline([], SlowStages(), how="fast")


class _Elsewhere(torch.Tensor):
    """A tensor that says it is on a GPU, and remembers who asked for its memory to be kept."""

    @property
    def is_cuda(self):
        return True

    def record_stream(self, stream):
        self.kept_for = stream


class _Stream:
    """A stream that remembers for what it waits."""

    def __init__(self):
        self.waits = []

    def record_event(self):
        return f"event of {id(self)}"

    def wait_event(self, event):
        self.waits.append(event)


class _Device:
    """A device module of which one can see which stream is current."""

    Stream = _Stream

    def __init__(self):
        self.now = [_Stream()]

    def current_stream(self):
        return self.now[-1]

    def stream(self, stream):
        device = self

        class Entered:
            def __enter__(self):
                device.now.append(stream)

            def __exit__(self, *_):
                device.now.pop()
        return Entered()


@dataclass
class _Held:
    tensor: torch.Tensor


def test_each_stream_waits_for_the_one_before_and_keeps_its_memory(monkeypatch):
    """TorchRec #4191: memory that its own stream takes for free while another still reads it."""
    device = _Device()
    monkeypatch.setattr(overlap.torch, "get_device_module", lambda _: device)
    tensor = torch.ones(2).as_subclass(_Elsewhere)
    on = []

    class OnStreams:
        def copy(self, item):
            on.append(device.current_stream())
            return _Held(tensor)

        def distribute(self, batch):
            on.append(device.current_stream())
            assert batch.tensor.kept_for is on[-1], "kept for the stream that distributes"
            return {"held": batch}
    with InputPipeline([0], OnStreams(), how="streams") as pipeline:
        (batch,) = pipeline
    copying, distributing = on
    computing, = device.now
    assert len({id(stream) for stream in (copying, distributing, computing)}) == 3
    assert distributing.waits[0] == copying.record_event()
    assert computing.waits[0] == distributing.record_event()
    assert batch["held"].tensor.kept_for is computing


# On several ranks

@program
@pytest.mark.parametrize("how", HOWS)
def test_whoever_runs_dry_ends_all_at_the_same_step(how):
    """TorchRec #4158, #4503: ranks of 4, 2 and 3 batches; the same in a second epoch."""
    lengths = [4, 2, 3]
    for rank, (first, second) in enumerate(launch(pipelined.uneven, 3, lengths, how, epochs=2)):
        assert first["batches"] == second["batches"] == [(0, 0), (1, 3)]
        assert first["agreements"] == second["agreements"] == 3, "two batches and the end, on every rank"
        left = first["unused"]
        assert left == list(range(2, 2 + len(left))), "what was taken in vain is there, in order"
        assert len(left) <= min(2, lengths[rank] - 2)
        assert not first["threads"]


@program
@pytest.mark.parametrize("lengths", [[0, 3], [1, 5], [0, 0]])
def test_a_rank_with_next_to_nothing_ends_all(lengths):
    """TorchRec #4503: the warm-up must not differ between ranks."""
    for (seen,) in launch(pipelined.uneven, 2, lengths, "threads"):
        assert [batch for batch, _ in seen["batches"]] == list(range(min(lengths)))
        assert seen["agreements"] == min(lengths) + 1


@program
def test_who_asks_after_the_end_does_not_hang():
    """TorchRec #1778."""
    assert launch(pipelined.asked_after_the_end, 2, timeout_seconds=10) == [2, 2]


@program
@pytest.mark.parametrize("how", ["threads", "serial"])
@pytest.mark.parametrize("stage", ["source", "copy"])
def test_a_rank_that_fails_stops_all_at_the_same_step(stage, how):
    well, ill = launch(pipelined.broken, 2, stage, rank=1, how=how)
    assert well["seen"] == ill["seen"] == [0, 1]
    assert (well["told"], ill["told"]) == ("OtherRankFailed", "Broken")
    assert well["unused"][0] == 2
    assert not well["threads"] and not ill["threads"]


@program
def test_all_may_leave_early_and_begin_anew():
    for found in launch(pipelined.left_early, 2):
        assert found["seen"] == [0, 1] * 3
        assert not found["threads"]
        assert found["unused"] == [2, 3] * 3


@program
def test_a_group_that_others_use_is_refused():
    for without, everybodys in launch(refused, 2):
        assert "no group to agree in" in without
        assert "is everybody's" in everybodys


def refused():
    told = []
    for group in (None, torch.distributed.group.WORLD):
        try:
            InputPipeline([], SlowStages(), group=group)
        except ValueError as error:
            told.append(str(error))
    return told


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_streams_of_a_gpu_give_the_same():
    class ToTheDevice:
        def copy(self, item):
            return torch.full((1 << 20,), float(item)).pin_memory().to("cuda", non_blocking=True)

        def distribute(self, batch):
            return batch * 2
    with InputPipeline(range(20), ToTheDevice(), device="cuda") as pipeline:
        assert [float(batch.mean()) for batch in pipeline] == [2.0 * item for item in range(20)]
