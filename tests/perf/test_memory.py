"""Predicted against measured, and the measurement against PyTorch's own tracker."""

from dataclasses import replace

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker

from aiinfra.environment import triton_interpreted
from aiinfra.model.packed_documents import PackedDocuments
from aiinfra.perf.memory import MemoryPlan, layer_activations, parameter_count, predict_memory
from aiinfra.perf.memory_recorder import MemoryRecorder, OutOfBudget, storage_bytes
from aiinfra.perf.training import decoder_flops, matrix_weights
from aiinfra.train.data import MicroBatch
from aiinfra.train.loop import next_token_loss
from aiinfra.train.memory import record_step
from aiinfra.train.optimizer import adamw
from aiinfra.train.recompute import recompute
from tests.train.stories import tiny_config, tiny_model

SIZES = dict(vocab_size=1024, hidden_size=96, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=4, head_dim=24, intermediate_size=256, max_position_embeddings=2048)
ROWS = [96] * 6
CASES = {
    "tied": ({}, ROWS, {}),
    "untied": ({"tie_word_embeddings": False}, ROWS, {}),
    "grouped queries": ({"num_key_value_heads": 1}, ROWS, {}),
    "norms of queries and keys": ({"qk_norm": True, "num_key_value_heads": 2}, ROWS, {}),
    "long": ({}, [1024], {}),
    "ragged": ({}, [100, 28, 300, 84, 64], {}),
    "block": ({}, ROWS, {"policy": "block"}),
    "operation": ({}, ROWS, {"policy": "operation"}),
    "accumulation": ({}, [96] * 3, {"accumulate": 3}),
    "large vocabulary": ({"vocab_size": 8192}, [96] * 3, {}),
    "16 bits": ({}, ROWS, {"narrow": True}),
    "16 bits, block": ({"tie_word_embeddings": False}, ROWS, {"narrow": True, "policy": "block"}),
    "all at once": ({"tie_word_embeddings": False, "num_key_value_heads": 2}, [40, 700],
                    {"policy": "block", "accumulate": 2}),
}


def batch(lengths: list[int], vocabulary: int) -> MicroBatch:
    count = sum(lengths)
    borders = torch.tensor([0, *lengths]).cumsum(0).int()
    return MicroBatch(
        tokens=torch.randint(0, vocabulary, (count,)), targets=torch.randint(0, vocabulary, (count,)),
        positions=torch.cat([torch.arange(length) for length in lengths]),
        documents=PackedDocuments(borders, max(lengths)), valid=count, text_bytes=count)


def measured(changes: dict, lengths: list[int], policy: str = "none", accumulate: int = 1,
             narrow: bool = False, backend: str = "torch") -> tuple[MemoryRecorder, MemoryPlan]:
    model = tiny_model(**SIZES | changes)
    optimizer = adamw(model)
    recompute(model, policy)
    window = [batch(lengths, model.config.vocab_size) for _ in range(accumulate)]
    autocast = torch.bfloat16 if narrow else None
    record_step(model, optimizer, window, autocast)                    # AdamW makes its moments
    plan = predict_memory(model.config, lengths, policy, accumulate, narrow, backend=backend)
    return record_step(model, optimizer, window, autocast), plan


@pytest.mark.filterwarnings("ignore:Mismatch dtype")
@pytest.mark.parametrize("case", CASES)
def test_prediction_and_measurement(case: str) -> None:
    """Parameters, gradients, optimizer and activations within 1 %, the peak and each phase's within 4 %; the
    promise is 5 % and 10 %. Where a phase is not the peak, recomputation may be off by 10 %."""
    changes, lengths, options = CASES[case]
    recorder, plan = measured(changes, lengths, **options)
    most = {kind: max(moment.by_kind.get(kind, 0) for moment in recorder.moments)
            for kind in ("parameters", "gradients", "optimizer", "activations", "loss")}
    assert most["parameters"] == pytest.approx(plan.parameters, rel=0.01)
    assert most["gradients"] == pytest.approx(plan.gradients, rel=0.01)
    assert most["optimizer"] == pytest.approx(plan.optimizer, rel=0.01)
    assert most["activations"] == pytest.approx(sum(plan.activations.values()), rel=0.01)
    assert most["loss"] == pytest.approx(plan.loss, rel=0.01)
    assert recorder.peak.nbytes == pytest.approx(plan.peak, rel=0.04)
    for phase, predicted in plan.phases.items():
        assert recorder.peak_of(phase).nbytes == pytest.approx(predicted, rel=0.1), phase


@pytest.mark.compile
@pytest.mark.skipif(not triton_interpreted(), reason="counts in Triton's interpreter")
@pytest.mark.parametrize("policy", ["none", "operation"])
def test_what_a_gpus_kernels_keep(policy: str, monkeypatch) -> None:
    """Triton's interpreter runs the kernels' own autograd functions: what they keep can be counted here."""
    for name in ("rmsnorm", "rope", "swiglu", "flash_attention", "cross_entropy"):
        monkeypatch.setattr(f"aiinfra.kernels.{name}.pick_backend", lambda tensor, backend: "triton")
    monkeypatch.setattr("aiinfra.model.layers.pick_backend", lambda tensor, backend: "triton")
    small = {"vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 2, "head_dim": 16}
    recorder, plan = measured(small, [16] * 3, policy=policy, backend="triton")
    most = max(moment.by_kind.get("activations", 0) for moment in recorder.moments)
    assert most == pytest.approx(sum(plan.activations.values()), rel=0.02)
    assert recorder.peak.nbytes == pytest.approx(plan.peak, rel=0.1)


def test_the_measurement_is_that_of_pytorchs_tracker() -> None:
    model = tiny_model(**SIZES)
    optimizer = adamw(model)
    data = batch(ROWS, 1024)
    record_step(model, optimizer, [data])
    recorder = record_step(model, optimizer, [data])
    optimizer.zero_grad()
    tracker = MemTracker()
    tracker.track_external(model, optimizer, data.tokens, data.targets, data.positions)
    with tracker:
        next_token_loss(model, data, data.valid).backward()
        optimizer.step()
    theirs = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    assert recorder.peak.nbytes == pytest.approx(theirs, rel=0.02)


def test_growth_with_length_is_linear_without_a_score_matrix() -> None:
    """Attention that keeps no scores: twice as long is twice as much, in prediction and in measurement."""
    peaks, plans = [], []
    for length in (256, 512, 1024):
        recorder, plan = measured({"vocab_size": 300}, [length])
        peaks.append(recorder.peak_of("forward").nbytes)
        plans.append(plan.phases["forward"])
    for found in (peaks, plans):
        assert found[2] - found[1] == pytest.approx(2 * (found[1] - found[0]), rel=0.02)


class ByTheFormula(PackedDocuments):
    """Attention that makes the whole matrix of weights."""

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        scores = torch.einsum("nhd,mhd->hnm", q, k) * q.shape[-1] ** -0.5
        future = torch.ones_like(scores[0], dtype=torch.bool).triu(1)
        return torch.einsum("hnm,mhd->nhd", scores.masked_fill(future, -torch.inf).softmax(-1), v)


def test_a_score_matrix_grows_with_the_square() -> None:
    """The second difference of three measured lengths is 2 · (4 · H + 1) bytes a pair and layer."""
    kept = []
    for length in (64, 128, 192):
        model = tiny_model(**SIZES)
        data = batch([length], 1024)
        whole = replace(data, documents=ByTheFormula(data.documents.cu_seqlens, length))
        recorder = record_step(model, adamw(model), [whole])
        kept.append(max(moment.by_kind.get("activations", 0) for moment in recorder.moments))
        plan = predict_memory(model.config, [length], score_matrix=True)
        assert sum(plan.activations.values()) == pytest.approx(kept[-1], rel=0.01)
    second = kept[2] - 2 * kept[1] + kept[0]
    assert second == pytest.approx(2 * 64 * 64 * (4 * 4 + 1) * 3, rel=0.001)


def test_views_and_tied_weights_count_once() -> None:
    recorder = MemoryRecorder()
    with recorder:
        x = torch.zeros(1000)
        y = x.view(10, 100)[3:]
        recorder.mark([x, y, y.t()], "kept")
        assert recorder.moments[-1].nbytes == 4000
        z = x + 1
        assert recorder.moments[-1].by_kind == {"kept": 4000, "temporary": 4000}
        del z
        torch.zeros(1)
    assert recorder.moments[-1].by_kind == {"kept": 4000, "temporary": 4} and recorder.peak.nbytes == 8000
    again = MemoryRecorder()
    with again:
        first, second = torch.zeros(10), torch.zeros(20)
        again.mark_temporary("activations")              # of the moments before, too
    told = [moment.by_kind.get("activations", 0) for moment in again.moments]
    assert told == [40, 120] and [moment.nbytes for moment in again.moments] == told
    assert first.nbytes + second.nbytes == 120
    model = tiny_model(**SIZES)
    weights = list(model.parameters())
    assert storage_bytes([*weights, model.lm_head.weight]) == sum(weight.nbytes for weight in weights)


def test_a_budget_runs_out_and_nothing_is_changed() -> None:
    model = tiny_model(**SIZES)
    optimizer, data = adamw(model), batch(ROWS, 1024)
    recorder = record_step(model, optimizer, [data])
    before = [parameter.clone() for parameter in model.parameters()]
    peak = recorder.peak.nbytes
    said = r"out of memory: aten.* in (forward|loss) asks for .* MB are in use"
    with pytest.raises(OutOfBudget, match=said):
        record_step(model, optimizer, [data], limit=peak // 2)
    assert all(map(torch.equal, before, model.parameters()))
    again = record_step(model, optimizer, [data])                # and the model is as good as before
    assert record_step(model, optimizer, [data], limit=again.peak.nbytes).peak == again.peak


def test_recomputing_saves_what_is_predicted() -> None:
    config = tiny_config(**SIZES)
    plans = {policy: predict_memory(config, ROWS, policy) for policy in ("none", "operation", "block")}
    assert plans["none"].peak > plans["operation"].peak > plans["block"].peak
    kept = plans["block"].activations
    assert kept["input"] == 3 * sum(ROWS) * 96 * 4 and "gated" not in kept
    assert plans["block"].temporary > plans["none"].temporary


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": False}, {"num_key_value_heads": 1}])
def test_weights_are_counted(changes: dict) -> None:
    model = tiny_model(**SIZES | changes)
    assert parameter_count(model.config) == sum(parameter.numel() for parameter in model.parameters())
    for extra in ("qkv_bias", "qk_norm", "out_bias", "mlp_bias"):
        other = tiny_model(**SIZES | changes | {extra: True})
        assert parameter_count(other.config) == sum(p.numel() for p in other.parameters()), extra


def test_flops_are_six_a_weight_and_attention() -> None:
    config = tiny_config(**SIZES)
    model = tiny_model(**SIZES)
    matrices = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim == 2)
    assert matrix_weights(config) == matrices
    attention = 3 * 12 * 96 * (10 * 11 / 2 + 20 * 21 / 2)
    assert decoder_flops(config, [10, 20]) == 6 * matrices * 30 + attention
    ragged, even = layer_activations(config, ragged=True), layer_activations(config)
    assert ragged.keys() - even.keys() == {"attention copy"}
