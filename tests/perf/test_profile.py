"""Where a step's time went: against PyTorch's own sums, and on traces whose answer is known."""

import json
import time
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from aiinfra.engine.engine import Engine
from aiinfra.engine.sampling_params import SamplingParams
from aiinfra.perf.profile import WHOLE, Profile, read_trace
from aiinfra.perf.profiler import profile_call
from aiinfra.train.data import PackedStream
from aiinfra.train.loop import loop
from aiinfra.train.optimizer import Schedule, adamw
from aiinfra.train.recompute import recompute
from tests.train.stories import corpus, tiny_model

TEXT = corpus()


def a_step(policy: str = "none", trace: Path | None = None) -> Profile:
    """A step of training: two micro-batches."""
    model = tiny_model()
    recompute(model, policy)
    stream = PackedStream(TEXT, 32, 2, seed=0)
    records = loop(model, stream, adamw(model), Schedule(peak=1e-3, steps=9), accumulate=2)
    seen = profile_call(lambda: next(records), model, trace=trace)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    return seen


def test_own_times_add_up_to_the_busy_time() -> None:
    seen = a_step()
    busy = seen.seconds * (1 - seen.idle_share)
    assert sum(one.own_seconds for one in seen.work) == pytest.approx(busy, rel=1e-6)
    assert min(one.own_seconds for one in seen.work) > -1e-9
    for groups in (seen.by_operation(), seen.by_layer(), seen.by_part()):
        assert sum(group.seconds for group in groups) == pytest.approx(busy, rel=1e-6)
        assert sum(group.calls for group in groups) == len(seen.work)
        assert [group.seconds for group in groups] == sorted((g.seconds for g in groups), reverse=True)
    assert 0 < seen.idle_share < 1 and seen.plain_seconds > 0


def test_the_sums_are_those_of_pytorch(tmp_path: Path) -> None:
    model, stream = tiny_model(), PackedStream(TEXT, 32, 2, seed=0)
    records = loop(model, stream, adamw(model), Schedule(peak=1e-3, steps=9))
    with profile(activities=[ProfilerActivity.CPU]) as theirs, record_function(WHOLE):
        next(records)
    theirs.export_chrome_trace(str(tmp_path / "trace.json"))
    ours = {spent.name: spent for spent in read_trace(tmp_path / "trace.json").by_operation()}
    for average in theirs.key_averages():
        if average.key.startswith("aten::"):
            # they count one call where an operation only hands on to another one of its name
            assert ours[average.key].calls >= average.count, average.key
            own = 1e-6 * average.self_cpu_time_total
            assert ours[average.key].seconds == pytest.approx(own, rel=0.02, abs=5e-6 * average.count)


@pytest.mark.parametrize("policy", ["none", "block"])
def test_every_module_has_its_forward_and_its_backward(policy: str) -> None:
    seen = a_step(policy)
    layers = {spent.name: spent for spent in seen.by_layer()}
    assert layers.keys() >= {"embed", "layers.0", "layers.1", "norm", "loss", "AdamW.step", "data"}
    assert all(layers[name].backward_seconds > 0 for name in ("embed", "layers.0", "layers.1", "norm"))
    assert layers["AdamW.step"].backward_seconds == layers["data"].backward_seconds == 0
    products = [one for one in seen.work if one.name == "aten::mm" and one.part == "layers.1.mlp.gate_up"]
    again = policy == "block"
    assert sum(not one.backward for one in products) == 2, "one a micro-batch"
    assert sum(one.backward for one in products) == 4 + 2 * again, "for the input, for the weight, and again"
    parts = {spent.name for spent in seen.by_part()}
    assert {"layers.attention.qkv", "layers.mlp.down"} < parts and not any("0" in part for part in parts)


def test_a_pause_is_idle() -> None:
    x = torch.zeros(8)

    def work() -> None:
        x.sin()
        time.sleep(0.05)
        x.cos()
    seen = profile_call(work)
    pauses = [end - start for start, end in seen.idle_spans if end - start > 0.04]
    assert pauses == [pytest.approx(0.05, abs=0.03)] and seen.idle_share > 0.5
    assert {one.name for one in seen.work} >= {"aten::sin", "aten::cos"}


def test_a_step_of_the_engine() -> None:
    engine = Engine(tiny_model().eval())
    engine.add("a", [1, 2, 3], SamplingParams(max_tokens=9, temperature=0))
    seen = profile_call(engine.step, engine.model)
    layers = {spent.name for spent in seen.by_layer()}
    assert {"embed", "layers.0", "layers.1", "lm_head"} <= layers
    assert sum(spent.backward_seconds for spent in seen.by_layer()) == 0


def test_the_file_opens_in_perfetto(tmp_path: Path) -> None:
    """The fields that Chrome's trace format asks of each kind of event."""
    seen = a_step(trace=tmp_path / "made" / "step.json")
    content = json.loads((tmp_path / "made" / "step.json").read_text())
    asked = {"X": ("name", "cat", "ts", "dur", "pid", "tid"), "M": ("name", "pid", "args"),
             "s": ("id", "name", "cat", "ts", "pid", "tid"), "f": ("id", "name", "cat", "ts", "pid", "tid"),
             "i": ("name", "ts", "s")}
    events = content["traceEvents"]
    assert {event["ph"] for event in events} <= asked.keys()
    assert all(field in event for event in events for field in asked[event["ph"]])
    spans = [event for event in events if event["ph"] == "X"]
    assert all(event["dur"] >= 0 and isinstance(event["ts"], int | float) for event in spans)
    begins = {event["id"] for event in events if event["ph"] == "s"}
    assert begins == {event["id"] for event in events if event["ph"] == "f"} != set()
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["step.json"]
    again = read_trace(tmp_path / "made" / "step.json")
    assert (again.seconds, again.work) == (seen.seconds, seen.work) and again.plain_seconds is None


def gpu_trace() -> dict:
    """As a GPU's: a forward thread and one of autograd, kernels that follow their calls; microseconds."""
    def span(kind: str, name: str, start: float, end: float, thread: int = 1, **more: object) -> dict:
        return {"ph": "X", "cat": kind, "name": name, "pid": 1, "tid": thread, "ts": 1000 + start,
                "dur": end - start, "args": more}

    def arrow(ph: str, start: float, thread: int) -> dict:
        return {"ph": ph, "cat": "fwdbwd", "name": "fwdbwd", "id": 7, "pid": 1, "tid": thread,
                "ts": 1000 + start}
    return {"traceEvents": [
        span("user_annotation", WHOLE, 0, 100),
        span("user_annotation", "layers.3.mlp.down", 5, 20),
        span("cpu_op", "aten::linear", 6, 18, **{"External id": 1}),
        span("cpu_op", "aten::mm", 8, 16, **{"External id": 2}), arrow("s", 8, 1),
        span("cpu_op", "autograd::engine::evaluate_function: MmBackward0", 30, 60, thread=2),
        span("cpu_op", "MmBackward0", 32, 58, thread=2), arrow("f", 32, 2),
        span("cpu_op", "aten::mm", 33, 40, thread=2, **{"External id": 3}),
        span("kernel", "sm90_xmma_gemm", 10, 30, thread=7, **{"External id": 2}),
        span("kernel", "sm90_xmma_gemm", 40, 70, thread=7, **{"External id": 3}),
        span("kernel", "_softmax_gradient_kernel", 65, 75, thread=8, **{"External id": 99}),
        span("gpu_user_annotation", "layers.3.mlp.down", 10, 30, thread=7),
    ]}


def test_kernels_belong_to_who_asked_for_them(tmp_path: Path) -> None:
    (tmp_path / "gpu.json").write_text(json.dumps(gpu_trace()))
    seen = read_trace(tmp_path / "gpu.json")
    found = [(one.name, one.part, one.backward, round(1e6 * one.own_seconds)) for one in seen.work]
    assert found == [("aten::mm", "layers.3.mlp.down", False, 20),
                     ("aten::mm", "layers.3.mlp.down", True, 30),
                     ("_softmax_gradient_kernel", "elsewhere", False, 10)]
    assert seen.seconds == pytest.approx(1e-4) and seen.idle_share == pytest.approx(0.45)
    assert [(spent.name, spent.calls) for spent in seen.by_layer()] == [("layers.3", 2), ("elsewhere", 1)]


@pytest.mark.parametrize("content, message", [
    ("{", "step.json is no trace"), ("[]", "is no trace"), ("{}", "is no trace"),
    ('{"traceEvents": []}', "was not written by profile_call"),
])
def test_another_file_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "step.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_trace(tmp_path / "step.json")


def test_work_that_fails_leaves_no_hooks_and_no_file(tmp_path: Path) -> None:
    model = tiny_model()

    def work() -> None:
        model(torch.tensor([999]))
    with pytest.raises(IndexError):
        profile_call(work, model, trace=tmp_path / "step.json", warmup=0)
    assert not list(tmp_path.iterdir())
    assert not any(module._forward_hooks for module in model.modules())
    assert profile_call(lambda: model(torch.tensor([9])), model).plain_seconds > 0


def test_nothing_is_computed_otherwise() -> None:
    """The same losses with and without the profiler."""
    losses = []
    for watched in (False, True):
        model = tiny_model()
        records = loop(model, PackedStream(TEXT, 32, 2, seed=0), adamw(model), Schedule(peak=1e-2, steps=9))
        found = list(islice(records, 2))
        if watched:
            profile_call(lambda: found.append(next(records)), model, warmup=0)
        found += islice(records, 3 - len(found))
        losses.append([record.loss for record in found])
    assert losses[0] == losses[1]
