"""A whole training, from a text file to a model that can be loaded, in one folder; stopped and resumed at
will.

    DIR/tokenizer.json          learnt from the text, once
    DIR/metrics.jsonl           a line a step, none twice and none missing, however often the run was stopped
    DIR/evaluations.jsonl       a line a checkpoint: loss on the validation part
    DIR/checkpoints/            see checkpoints.py
    DIR/export/                 at the end: a Hugging Face folder, for `LLM` and for transformers

The order within a step makes a kill harmless: its line is written, then its checkpoint, then it is evaluated.
A resumed run cuts the metrics back to its checkpoint's step. Notebook 04.
"""

import json
import math
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from aiinfra.checkpoint.save import save
from aiinfra.checkpoint.tokenizer import Tokenizer
from aiinfra.device import as_device, as_dtype
from aiinfra.files import write_text
from aiinfra.model.config import ModelConfig
from aiinfra.model.moe_config import MoEConfig
from aiinfra.model.transformer import Transformer
from aiinfra.perf.training import decoder_flops
from aiinfra.train.checkpoints import Checkpoints
from aiinfra.train.corpus import Corpus, read_documents, split_documents, tokenize, train_tokenizer
from aiinfra.train.data import MicroBatch, PackedStream
from aiinfra.train.evaluate import Evaluation, evaluate
from aiinfra.train.loop import Limits, loop
from aiinfra.train.optimizer import Schedule
from aiinfra.train.options import MAY_DIFFER, TrainOptions
from aiinfra.train.state import Waypoint, check_configuration
from aiinfra.train.step import TrainStep
from aiinfra.train.team import Alone, Team


@dataclass(frozen=True)
class Texts:
    """The corpus of each part, and the tokenizer that wrote it."""

    tokenizer: Tokenizer
    train: Corpus
    validation: Corpus | None        # None where there are too few documents to keep one out


class TrainingRun:
    """A run in the folder `out`. Iterate over it: a record a step, until `options.steps` are done.

    resume: go on from the newest whole checkpoint in `out`, or begin where there is none. peak_flops: what
    the device can do a second, for MFU. team: the processes that train together. Raises ValueError for data
    that cannot be used, for a folder that holds a run already (without resume), and StateError for a
    configuration that is not the saved one's.
    """

    def __init__(self, data: str | Path, out: str | Path, options: TrainOptions, resume: bool = False,
                 peak_flops: float | None = None, team: Team = Alone()) -> None:
        self.out = Path(out)
        self.team = team
        self.options = options
        self.peak_flops = peak_flops
        self.checkpoints = Checkpoints(self.out / "checkpoints", options.keep, team)
        if team.agree(self.checkpoints.steps()) and not resume:
            raise ValueError(f"{self.out} holds a run already. Pass --resume to go on with it, or take "
                             "another folder.")
        self.texts = team.in_turn(lambda: prepare_texts(data, self.out, options))
        device = as_device(options.device)
        torch.manual_seed(options.seed)
        model = Transformer(model_config(options, self.texts.tokenizer)).to(device)
        self.weights = sum(parameter.numel() for parameter in model.parameters())
        self.stream = PackedStream(self.texts.train, options.length, options.rows, options.seed)
        self.share = team.share(model, options, self.stream, _autocast(options, device))
        self.model = self.share.model
        self.optimizer = self.share.optimizer
        self.configuration = asdict(options) | {"data": self.texts.train.digest()}
        self.step = 0
        self.tokens_seen = 0
        self.changes: list[str] = []         # what differs from the run that is resumed, in words
        place = self.checkpoints.load_newest(self.model, self.optimizer, accept=self._check)
        team.in_turn(lambda: self._take_up(place))
        self.share.prepare(options)

    def introduction(self) -> list[str]:
        """Sentences on what is trained on what, and from where."""
        text = self.texts.train
        lines = [f"{self.weights:,} weights, {self.texts.tokenizer.vocab_size:,} tokens in the vocabulary",
                 f"{text.documents:,} documents of {len(text):,} tokens; a step takes "
                 f"{self.options.length * self.options.rows * self.options.accumulate:,} of them"]
        if self.texts.validation is None:
            lines.append("too few documents to keep one out: nothing is evaluated")
        if self.step:
            lines.append(f"going on after step {self.step}")
        return lines + [f"changed: {change}" for change in self.changes]

    def __iter__(self) -> Iterator[TrainStep]:
        """Train, and after each step write its line; then, where it is time, a checkpoint and an
        evaluation."""
        self._evaluate_if_missing()
        with (self.out / "metrics.jsonl").open("a") as metrics:
            for record in self._records():
                self.step = record.step
                self.tokens_seen = record.tokens_seen
                if self.team.first:
                    print(json.dumps(record.as_json()), file=metrics, flush=True)
                if self.step % self.options.save_every == 0 or self.step == self.options.steps:
                    self.save()
                    self._evaluate_if_missing()
                yield record
                if self.step >= self.options.steps:
                    return

    def save(self) -> None:
        """Write a checkpoint of this moment. A disk that is full is warned of: the run goes on, and what was
        saved before is still there."""
        place = Waypoint(
            step=self.step,
            tokens_seen=self.tokens_seen,
            position=self.stream.position,
            configuration=self.configuration)
        try:
            self.checkpoints.save(self.model, self.optimizer, place)
        except OSError as error:
            kept = self.checkpoints.steps()
            last = f"the last one is of step {kept[-1]}" if kept else "there is none before it"
            problem = f"the checkpoint of step {self.step} could not be written ({error})"
            warnings.warn(f"{problem}; {last}.", stacklevel=2)

    def export(self) -> Path:
        """The model as it is now, as a Hugging Face folder in `out`/export; returns where."""
        folder = self.out / "export"
        whole = self.team.whole(self.model)
        if whole is not None:
            save(whole, folder, self.texts.tokenizer)
        return folder

    def _records(self) -> Iterator[TrainStep]:
        options = self.options
        if self.step >= options.steps:
            return iter(())
        warmup = min(options.warmup, options.steps // 10)
        share = self.share
        return loop(
            self.model, share.batches, self.optimizer,
            Schedule(peak=options.learning_rate, steps=options.steps, warmup=warmup),
            accumulate=share.accumulate,
            clip_norm=options.clip_norm,
            autocast=share.autocast,
            ranks=share.ranks,
            passes=share.passes,
            # twice as bad as knowing nothing
            limits=Limits(loss=2 * math.log(self.model.config.vocab_size)),
            steps_done=self.step,
            tokens_seen=self.tokens_seen,
            flops=self._flops,
            peak_flops=self.peak_flops)

    def _flops(self, batch: MicroBatch) -> float:
        lengths = batch.documents.cu_seqlens.diff().tolist()
        return decoder_flops(self.model.config, lengths) / self.share.parts

    def _check(self, place: Waypoint) -> None:
        # A setting that is younger than the run was what its default is, which changes nothing.
        saved = asdict(TrainOptions()) | place.configuration
        self.changes = check_configuration(saved, self.configuration, MAY_DIFFER)

    def _take_up(self, place: Waypoint | None) -> None:
        """Go on from a checkpoint: the stream's place, the counters, the metrics cut back to its step."""
        if place is not None:
            self.step = place.step
            self.tokens_seen = place.tokens_seen
            self.stream.position = place.position
        for name in ("metrics.jsonl", "evaluations.jsonl"):
            if self.team.first:
                _cut_back(self.out / name, self.step)

    def _evaluate_if_missing(self) -> None:
        """Evaluate the checkpoint of this step, unless there is none or a killed run has done it already."""
        known = [line["step"] for line in read_lines(self.out / "evaluations.jsonl")]
        wanted = self.texts.validation is not None and self.step in self.checkpoints.steps()
        if not self.team.agree(wanted and self.step not in known):
            return
        whole = self.team.whole(self.model)
        if whole is not None:
            self._evaluate(whole)

    def _evaluate(self, model: Transformer) -> None:
        found = evaluate(model, self.texts.validation, self.options.length, self.options.rows)
        self.checkpoints.note_evaluation(self.step, found.loss)
        with (self.out / "evaluations.jsonl").open("a") as lines:
            print(json.dumps({"step": self.step, **asdict(found)}), file=lines, flush=True)


def _autocast(options: TrainOptions, device: torch.device) -> torch.dtype | None:
    """In which dtype passes compute, if not in the weights'."""
    dtype = as_dtype(options.dtype, device)
    return None if dtype == torch.float32 else dtype


def prepare_texts(data: str | Path, out: Path, options: TrainOptions) -> Texts:
    """Read and split the text; learn the tokenizer, or take up the one that `out` has."""
    split = split_documents(read_documents(data))
    if not (out / "tokenizer.json").exists():
        train_tokenizer(split.train, options.vocabulary).save(out)
    tokenizer = Tokenizer.from_folder(out)
    return Texts(
        tokenizer=tokenizer,
        train=tokenize(split.train, tokenizer),
        validation=tokenize(split.validation, tokenizer) if split.validation else None)


def model_config(options: TrainOptions, tokenizer: Tokenizer) -> ModelConfig:
    """The decoder's shape; its table of words is input and output at once."""
    return ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=options.width,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.kv_heads,
        head_dim=options.width // options.heads,
        intermediate_size=options.feed_forward,
        moe=experts_config(options),
        max_position_embeddings=max(512, options.length),
        tie_word_embeddings=True,
        eos_token_ids=tokenizer.eos_ids,
        bos_token_id=tokenizer.eos_ids[0])


def experts_config(options: TrainOptions) -> MoEConfig | None:
    """The experts of each layer, weighed as Mixtral weighs them; None for plain layers."""
    if not options.experts:
        return None
    return MoEConfig(
        num_experts=options.experts,
        num_experts_per_tok=options.experts_per_token,
        moe_intermediate_size=options.feed_forward,
        router_aux_loss_coef=options.balance_loss)


def read_lines(path: Path) -> list[dict]:
    """The records of a JSON-lines file, without a last line that was not finished; none if there is no
    file."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")[:-1]             # what follows the last end of line was cut short
    return [json.loads(line) for line in lines]


def _cut_back(path: Path, step: int) -> None:
    """Forget what a run wrote after the checkpoint that is gone on from."""
    if path.exists():
        kept = [line for line in read_lines(path) if line["step"] <= step]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
