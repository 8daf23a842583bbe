"""The loop's arithmetic is the field's own: against transformers, and against itself cut otherwise."""

import math
from dataclasses import dataclass, replace
from itertools import islice

import pytest
import torch
import transformers
from torch import Tensor, nn

from aiinfra.device import default_device
from aiinfra.model.packed_documents import PackedDocuments
from aiinfra.train.data import MicroBatch, PackedStream
from aiinfra.train.loop import Limits, OneByOne, Phases, loop, next_token_loss
from aiinfra.train.optimizer import Schedule, adamw, decay_groups
from aiinfra.train.step import Diverged, TrainStep
from tests.train.stories import corpus, tiny_config, tiny_model

TEXT = corpus()


def train(model: nn.Module, batches, steps: int = 3, **options) -> list[TrainStep]:
    schedule = Schedule(peak=options.pop("peak", 1e-3), steps=steps, warmup=2)
    return list(islice(loop(model, batches, adamw(model), schedule, **options), steps))


def masked(batch: MicroBatch, share: float, seed: int = 0) -> MicroBatch:
    """The same with about `share` of its targets not to be learnt from."""
    kept = torch.rand(len(batch.targets), generator=torch.Generator().manual_seed(seed)) >= share
    return replace(batch, targets=torch.where(kept, batch.targets, -100), valid=int(kept.sum()))


def parts_of(batch: MicroBatch, sizes: list[int]) -> list[MicroBatch]:
    """Micro-batches of so many documents each."""
    borders = batch.documents.cu_seqlens
    made, first = [], 0
    for size in sizes:
        cuts = borders[first:first + size + 1]
        rows = slice(int(cuts[0]), int(cuts[-1]))
        targets = batch.targets[rows]
        made.append(MicroBatch(tokens=batch.tokens[rows], targets=targets, positions=batch.positions[rows],
                               documents=PackedDocuments(cuts - cuts[0], batch.documents.longest),
                               valid=int((targets != -100).sum()), text_bytes=0))
        first += size
    return made


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.parametrize("tied", [True, False])
def test_the_losses_of_transformers_llama(tied: bool) -> None:
    """Same shape, weights, data, AdamW, clipping and schedule: 50 steps, each loss within 1e-4 of theirs."""
    ours = tiny_model(tie_word_embeddings=tied)
    theirs = transformers_model(ours)
    steps, warmup, rows, length = 50, 10, 4, 32
    theirs_optimizer = torch.optim.AdamW([
        {"params": [p for p in theirs.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in theirs.parameters() if p.ndim == 1], "weight_decay": 0.0}],
        lr=3e-3, betas=(0.9, 0.95))
    theirs_schedule = transformers.get_cosine_schedule_with_warmup(theirs_optimizer, warmup, steps)
    theirs_schedule.step()                                              # its step 0 learns nothing
    schedule = Schedule(peak=3e-3, steps=steps, warmup=warmup, floor=0.0)
    batches = PackedStream(TEXT, length, rows, seed=0)
    data = PackedStream(TEXT, length, rows, seed=0)
    norms = []
    for record in islice(loop(ours, batches, adamw(ours), schedule, accumulate=2, clip_norm=0.5), steps):
        window = [next(data), next(data)]
        total = sum(batch.valid for batch in window)
        theirs_optimizer.zero_grad()
        losses = []
        for batch in window:
            lengths = batch.documents.cu_seqlens.diff().tolist()
            logits = torch.cat([theirs(part[None]).logits[0] for part in batch.tokens.split(lengths)])
            loss = nn.functional.cross_entropy(logits, batch.targets, reduction="sum") / total
            loss.backward()
            losses.append(loss.item())
        norm = nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        assert record.learning_rate == pytest.approx(theirs_optimizer.param_groups[0]["lr"])
        theirs_optimizer.step()
        theirs_schedule.step()
        assert record.loss == pytest.approx(sum(losses), rel=1e-4)
        assert record.gradient_norm == pytest.approx(norm.item(), rel=1e-2)
        norms.append(record.gradient_norm)
    assert record.loss < 4.0 and max(norms) > 0.5, "it has learnt, and was clipped"


def transformers_model(ours) -> nn.Module:
    """transformers' Llama with our weights."""
    config = ours.config
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=config.vocab_size, hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size, num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads, num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim, rms_norm_eps=config.rms_norm_eps,
        rope_theta=config.rope_theta, max_position_embeddings=config.max_position_embeddings,
        tie_word_embeddings=config.tie_word_embeddings))
    state = theirs.state_dict()
    heads = [config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads]
    sizes = [count * config.head_dim for count in heads]
    for name, value in ours.state_dict().items():
        name = name.replace("embed.", "model.embed_tokens.").replace("attention.out", "self_attn.o_proj")
        name = name.replace("attention_norm", "input_layernorm")
        name = name.replace("mlp_norm", "post_attention_layernorm")
        name = name.replace("mlp.down", "mlp.down_proj") if "layers" in name else name
        name = f"model.{name}" if name.startswith(("layers", "norm")) else name
        if "attention.qkv" in name:
            for part, rows in zip("qkv", value.split(sizes)):
                state[name.replace("attention.qkv", f"self_attn.{part}_proj")].copy_(rows)
        elif "gate_up" in name:
            for part, rows in zip(("gate", "up"), value.chunk(2)):
                state[name.replace("gate_up", f"{part}_proj")].copy_(rows)
        else:
            state[name].copy_(value)
    return theirs


@pytest.mark.parametrize("sizes", [[1] * 8, [3, 3, 2], [7, 1]])
@pytest.mark.parametrize("share", [0.0, 0.6])
def test_parts_of_a_step_are_the_whole_step(sizes: list[int], share: float) -> None:
    """Also with ragged masks, one part wholly masked, and one without a token."""
    whole = next(PackedStream(TEXT, 600, 1, seed=0))
    assert len(whole.documents.cu_seqlens) >= 9
    whole = masked(parts_of(whole, [8])[0], share)
    if share:
        whole.targets[:int(whole.documents.cu_seqlens[sizes[0]])] = -100
        whole = replace(whole, valid=int((whole.targets != -100).sum()))
    parts = parts_of(whole, sizes) + parts_of(whole, [0])
    results = []
    for batches in ([whole], parts):
        model = tiny_model()
        record, = train(model, batches, steps=1, accumulate=len(batches))
        results.append((record, model))
    (one, model), (many, same) = results
    assert many.loss == pytest.approx(one.loss, rel=1e-6) and many.tokens == one.tokens == whole.valid
    assert many.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-5)
    for a, b in zip(model.parameters(), same.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-7)


def test_eight_times_four_is_thirty_two() -> None:
    results = [train(tiny_model(), PackedStream(TEXT, 16, rows, seed=0), accumulate=32 // rows)
               for rows in (4, 32)]
    for few, many in zip(*results):
        assert few.loss == pytest.approx(many.loss, rel=1e-6)
        assert few.gradient_norm == pytest.approx(many.gradient_norm, rel=1e-4)
        assert few.bits_per_byte == pytest.approx(many.bits_per_byte) and few.tokens_seen == many.tokens_seen


def test_the_last_window_may_be_incomplete() -> None:
    batches = list(islice(PackedStream(TEXT, 16, 2, seed=0), 5))
    records = train(tiny_model(), batches, accumulate=2)
    assert [record.tokens for record in records] == [64, 64, 32]
    model = tiny_model()
    train(model, batches[:4], accumulate=2)
    with torch.no_grad():
        expected = next_token_loss(model, batches[4], total=32)
    assert records[2].loss == pytest.approx(float(expected), rel=1e-4), "the mean over its own tokens"


def test_nothing_to_learn_changes_nothing() -> None:
    batch = next(PackedStream(TEXT, 16, 2, seed=0))
    nothing = replace(batch, targets=torch.full_like(batch.targets, -100), valid=0)
    model = tiny_model()
    before = [parameter.clone() for parameter in model.parameters()]
    record, = train(model, [nothing], steps=1)
    assert math.isnan(record.loss) and record.tokens == 0 and record.as_json()["loss"] is None
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
    first, last = train(tiny_model(), [nothing, batch], steps=2)
    assert math.isfinite(last.loss) and last.tokens_seen == 32


def test_passes_take_the_whole_step_also_what_has_no_valid_token() -> None:
    """Processes that exchange something in each micro-batch must meet in each of them."""
    batches = list(islice(PackedStream(TEXT, 16, 2, seed=0), 4))
    batches[1] = replace(batches[1], targets=torch.full_like(batches[1].targets, -100), valid=0)
    model, twin, seen = tiny_model(), tiny_model(), []
    one_by_one = OneByOne(twin)
    def passes(window: list, total: int, phase: Phases) -> float:
        seen.append((len(window), total))
        return one_by_one(window, total, phase)
    expected = train(model, batches, accumulate=2)
    found = train(twin, batches, accumulate=2, passes=passes)
    assert seen == [(2, 32), (2, 64)]
    assert [record.loss for record in found] == [record.loss for record in expected]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters()))
    with pytest.raises(ValueError, match="passes compute in a dtype of their own"):
        train(twin, batches, passes=passes, autocast=torch.bfloat16)


def test_exactly_the_steps_micro_batches_are_taken() -> None:
    stream = PackedStream(TEXT, 16, 2, seed=0)
    model = tiny_model()
    for record in islice(loop(model, stream, adamw(model), Schedule(peak=1e-3, steps=9), accumulate=3), 3):
        assert stream.position == record.step * 6


@pytest.mark.parametrize("limits, peak, message", [
    (Limits(loss=2.0), 1e-3, r"step 1: loss 5\.\d+, gradient norm \d.*the loss may be at most 2"),
    (Limits(gradient_norm=0.01), 1e-3, r"step 1: .*the norm may be at most 0.01"),
    (Limits(loss=2 * math.log(300)), 30.0, r"step \d+: .*at most 11.41. The step was not taken"),
    (Limits(), 1e30, r"step \d+: .*not a finite number"),
])
def test_a_run_that_diverges_stops_with_step_and_norm(limits: Limits, peak: float, message: str) -> None:
    model = tiny_model()
    with pytest.raises(Diverged, match=message) as found:
        train(model, PackedStream(TEXT, 16, 4, seed=0), steps=30, limits=limits, peak=peak)
    assert found.value.step >= 1 and (found.value.loss > 2 or math.isnan(found.value.loss))


def test_the_weights_before_a_bad_step_are_kept() -> None:
    model = tiny_model()
    before = [parameter.clone() for parameter in model.parameters()]
    def broken(model, batch, total):
        return next_token_loss(model, batch, total) * math.inf
    with pytest.raises(Diverged, match="step 1: loss inf"):
        train(model, PackedStream(TEXT, 16, 4, seed=0), loss=broken)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_bits_per_byte_count_no_byte_for_special_tokens() -> None:
    batch = next(PackedStream(TEXT, 64, 4, seed=0))
    assert (batch.targets == 0).any()
    sizes = TEXT.token_bytes[batch.targets]
    assert batch.text_bytes == sizes.sum() and (sizes[batch.targets == 0] == 0).all()
    record, = train(tiny_model(), [batch], steps=1)
    assert record.bits_per_byte == pytest.approx(record.loss * len(sizes) / math.log(2) / int(sizes.sum()))


def test_a_record_tells_time_memory_and_mfu() -> None:
    stream = PackedStream(TEXT, 16, 4, seed=0)
    records = train(tiny_model(), stream, flops=lambda batch: 1e6 * batch.valid, peak_flops=1e12)
    for record in records:
        phases = record.phases
        told = phases.data + phases.forward + phases.backward + phases.optimizer
        assert 0 < told <= record.seconds < 1.5 * told + 0.01
        assert record.mfu == pytest.approx(64e6 / record.seconds / 1e12)
        assert record.peak_bytes > 1e8, "this process holds PyTorch"
        assert record.as_json().keys() >= {"step", "loss", "forward_seconds", "tokens_per_second", "mfu"}
    assert [record.tokens_seen for record in records] == [64, 128, 192]


def test_a_tied_table_is_decayed_once() -> None:
    for tied in (True, False):
        model = tiny_model(tie_word_embeddings=tied)
        groups = decay_groups(model, 0.1)
        listed = [parameter for group in groups for parameter in group["params"]]
        assert len({id(parameter) for parameter in listed}) == len(listed) == len(list(model.parameters()))
        assert all(parameter.ndim == 1 for parameter in groups[1]["params"])
        assert groups[1]["weight_decay"] == 0
        assert all(parameter.ndim == 2 for parameter in groups[0]["params"])


def test_narrow_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="embed.weight has fewer than 32 bits.*autocast=torch.bfloat16"):
        adamw(tiny_model().bfloat16())


def test_schedule() -> None:
    schedule = Schedule(peak=2.0, steps=10, warmup=4, floor=0.1)
    rates = [schedule.learning_rate(step) for step in range(1, 13)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0] and rates[9:] == pytest.approx([0.2, 0.2, 0.2])
    assert rates[6] == pytest.approx(1.1) and rates[3:] == sorted(rates[3:], reverse=True)
    with pytest.raises(ValueError, match="peak=0, steps=10, warmup=0"):
        Schedule(peak=0, steps=10)


def test_bfloat16_compute_on_float32_weights() -> None:
    """Losses near those of float32; weights, gradients and AdamW's state stay float32."""
    plain = train(tiny_model(), PackedStream(TEXT, 32, 4, seed=0), steps=20, peak=3e-3)
    model = tiny_model()
    optimizer = adamw(model)
    stream = PackedStream(TEXT, 32, 4, seed=0)
    schedule = Schedule(peak=3e-3, steps=20, warmup=2)
    narrow = list(islice(loop(model, stream, optimizer, schedule, autocast=torch.bfloat16), 20))
    assert any(a.loss != b.loss for a, b in zip(plain, narrow))
    assert all(b.loss == pytest.approx(a.loss, rel=0.02) for a, b in zip(plain, narrow))
    kept = [*model.parameters(), *(p.grad for p in model.parameters()),
            *(value for state in optimizer.state.values() for value in state.values())]
    assert all(tensor.dtype == torch.float32 for tensor in kept)


@dataclass(frozen=True)
class Points:
    """Another kind of batch: the loop knows nothing of tokens."""

    x: Tensor
    valid: int
    text_bytes: int = 0

    def to(self, device) -> "Points":
        return self


def test_any_model_and_loss_can_be_trained() -> None:
    model = nn.Linear(1, 1)
    def squares(model, batch, total):
        return ((model(batch.x) - 3 * batch.x - 1) ** 2).sum() / total
    batches = [Points(torch.randn(8, 1), valid=8) for _ in range(300)]
    schedule = Schedule(peak=0.1, steps=300)
    records = list(loop(model, batches, adamw(model, weight_decay=0), schedule, loss=squares))
    assert records[-1].loss < 1e-3 and records[-1].bits_per_byte is None
    with pytest.raises(ValueError, match="accumulate=0"):
        next(loop(model, batches, adamw(model), Schedule(peak=1, steps=1), accumulate=0))


@pytest.mark.skipif(default_device().type != "cuda", reason="needs a GPU")
def test_on_a_gpu() -> None:
    on_cpu = train(tiny_model(), PackedStream(TEXT, 32, 4, seed=0), steps=10)
    on_gpu = train(tiny_model().to("cuda"), PackedStream(TEXT, 32, 4, seed=0), steps=10)
    narrow = train(tiny_model().to("cuda"), PackedStream(TEXT, 32, 4, seed=0), steps=10,
                   autocast=torch.bfloat16)
    for a, b, c in zip(on_cpu, on_gpu, narrow):
        assert b.loss == pytest.approx(a.loss, rel=1e-3) and c.loss == pytest.approx(a.loss, rel=0.03)
