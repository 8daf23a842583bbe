"""`python -m aiinfra bench train`: training tokens a second, against transformers' Llama in the same loop.

    the same weights, texts, AdamW and schedule ─┬─► our model         one flat row, cut where texts end
                                                 └─► transformers'     rows; positions begin anew there

Both take a step by turns, and at every step both must find the same loss: else they did not do the same work.
A row that is one text needs no mask and suits both best; texts of many lengths are what a real corpus has.
Neither ever pads.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from aiinfra.bench.peers.transformers import transformers_model
from aiinfra.bench.row import Row
from aiinfra.checkpoint.save import save
from aiinfra.device import as_device
from aiinfra.model import ModelConfig, Transformer
from aiinfra.model.packed_documents import PackedDocuments
from aiinfra.perf.hardware import matmul_flops
from aiinfra.perf.training import decoder_flops
from aiinfra.train.compiled import compile_layers
from aiinfra.train.data import MicroBatch
from aiinfra.train.loop import loop
from aiinfra.train.onednn import use_onednn
from aiinfra.train.optimizer import Schedule, adamw
from aiinfra.train.step import TrainStep

SHAPE = ModelConfig(                   # 10.2 million weights
    vocab_size=4096,
    hidden_size=384,
    num_hidden_layers=5,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=64,
    intermediate_size=1152,
    tie_word_embeddings=True)
LENGTH, ROWS = 256, 8                  # of a row, in tokens; of a step
SHORTEST = 16                          # of the texts of many lengths
_SAME = 1e-4                           # how far two losses of the same step may lie apart, relatively
_WARMUP = 2                            # steps that do not count


@dataclass(frozen=True)
class TokenRows:
    """The same texts as rows [B, T], as transformers takes them."""

    tokens: Tensor                 # int64 [B, T]
    targets: Tensor                # int64 [B, T]
    positions: Tensor | None       # int64 [B, T], 0 where a text begins; None if each row is one
    valid: int
    text_bytes: int = 0

    def to(self, device: torch.device | str) -> "TokenRows":
        """The same on `device`."""
        positions = None if self.positions is None else self.positions.to(device)
        return replace(
            self, tokens=self.tokens.to(device), targets=self.targets.to(device), positions=positions)


@dataclass
class _Trainer:
    """A model in training, and what its steps told."""

    steps: Iterator[TrainStep]
    records: list[TrainStep] = field(default_factory=list)

    def step(self) -> None:
        self.records.append(next(self.steps))

    @property
    def rate(self) -> float:
        """Tokens a second: the median of the steps that count."""
        return median(record.tokens_per_second for record in self.records[_WARMUP:])


def bench_train(shape: ModelConfig = SHAPE, steps: int = 8, seed: int = 0, length: int = LENGTH,
                rows: int = ROWS, compiled: bool = False) -> Iterator[Row]:
    """Tokens a second with rows of one length (C7), with texts of many lengths, and the share of the device's
    matrix multiplication that the first is. compiled: both models, by torch.compile.

    Raises RuntimeError if the two find different losses.
    """
    weights = sum(parameter.numel() for parameter in Transformer(shape).parameters())
    note = f"{weights / 1e6:.1f}M weights, {steps} steps by turns"
    fixed = [length] * rows
    even, ours = _race(shape, [fixed] * (steps + _WARMUP), length, seed, compiled)
    yield replace(even, name=f"training, rows of {length} tokens", note=f"{note}, {even.note}", target="C7")
    device = as_device(None)
    peak = matmul_flops(device, torch.float32)
    done = decoder_flops(shape, fixed) / sum(fixed) * ours.rate
    yield Row("   of this machine's matrix product", 100 * done / peak, "%", note="MFU of our model, float32")
    random = torch.Generator().manual_seed(seed)
    ragged = [_text_lengths(rows, length, random) for _ in range(steps + _WARMUP)]
    mixed, _ = _race(shape, ragged, length, seed, compiled)
    yield replace(mixed, name=f"   texts of up to {length} tokens", note=f"{note}, {mixed.note}")


def _race(shape: ModelConfig, lengths: Sequence[list[int]], row_length: int, seed: int,
          compiled: bool) -> tuple[Row, _Trainer]:
    """A step for each of `lengths`, the lengths of its texts, by both models in turns."""
    torch.manual_seed(seed)
    model = Transformer(shape).to(as_device(None))
    twin, name = _twin(model) or (None, "")
    packed = [random_texts(one, shape.vocab_size, seed + step) for step, one in enumerate(lengths)]
    schedule = Schedule(peak=1e-3, steps=len(lengths))
    use_onednn(model)
    if compiled:
        compile_layers(model)
    ours = _Trainer(loop(model, packed, adamw(model), schedule))
    if twin is None:
        for _ in lengths:
            ours.step()
        return Row("training", ours.rate, "tok/s", note="transformers is not installed"), ours
    if compiled:
        twin.forward = torch.compile(twin.forward)
    rows = [in_rows(batch, row_length) for batch in packed]
    theirs = _Trainer(loop(twin, rows, adamw(twin), schedule, loss=their_loss))
    for _ in lengths:
        ours.step()
        theirs.step()
        _check_same(ours.records[-1], theirs.records[-1])
    row = Row(
        name="training",
        ours=ours.rate,
        unit="tok/s",
        peer=theirs.rate,
        peer_name=f"{name}, {twin.config._attn_implementation}",
        note="the same losses")
    return row, ours


def _twin(model: Transformer) -> tuple[Any, str] | None:
    """transformers' model with the same weights, and its name; None if it is not installed."""
    with TemporaryDirectory() as folder:
        save(model, Path(folder) / "model")
        return transformers_model(Path(folder) / "model", torch.float32, model.device)


def their_loss(model: Any, batch: TokenRows, total: int) -> Tensor:
    """As a user of transformers computes it: all logits, and PyTorch's cross-entropy."""
    logits = model(batch.tokens, position_ids=batch.positions, use_cache=False).logits    # [B, T, V]
    losses = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="sum")
    return losses / total


def _check_same(ours: TrainStep, theirs: TrainStep) -> None:
    if ours.tokens != theirs.tokens or abs(ours.loss / theirs.loss - 1) > _SAME:
        raise RuntimeError(f"step {ours.step}: a loss of {ours.loss:.6f} over {ours.tokens} tokens, and "
                           f"transformers' is {theirs.loss:.6f} over {theirs.tokens}: not the same work.")


def random_texts(lengths: list[int], vocabulary: int, seed: int) -> MicroBatch:
    """Texts of random tokens, packed."""
    random = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, vocabulary, (sum(lengths) + 1,), generator=random)
    borders = torch.tensor([0, *lengths]).cumsum(0)
    return MicroBatch(
        tokens=tokens[:-1],
        targets=tokens[1:],
        positions=torch.cat([torch.arange(length) for length in lengths]),
        documents=PackedDocuments(borders.int(), longest=max(lengths)),
        valid=sum(lengths),
        text_bytes=0)


def in_rows(batch: MicroBatch, length: int) -> TokenRows:
    """A packed micro-batch in rows of `length` tokens, at whose ends texts must end."""
    texts = len(batch.documents.cu_seqlens) - 1
    whole_rows = texts * length == batch.valid
    return TokenRows(
        tokens=batch.tokens.view(-1, length),
        targets=batch.targets.view(-1, length),
        positions=None if whole_rows else batch.positions.view(-1, length),
        valid=batch.valid)


def _text_lengths(rows: int, length: int, random: torch.Generator) -> list[int]:
    """Lengths of texts that fill `rows` rows; what a row's end cuts off is a text of its own."""
    made = []
    for _ in range(rows):
        left = length
        while left:
            drawn = int(torch.randint(SHORTEST, length + 1, (), generator=random))
            made.append(min(drawn, left))
            left -= made[-1]
    return made
