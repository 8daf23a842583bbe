"""`python -m aiinfra train --data FILE.txt --out DIR --steps N --seed S [--resume]`: a run, from text to a
model.

Ctrl-C stops after the step in hand, and saves; a second one stops at once. PyTorch is imported only to do it.
"""

import argparse
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from aiinfra.arguments import file_to_read, folder_to_write, number, whole
from aiinfra.train.options import TrainOptions

if TYPE_CHECKING:                      # PyTorch comes with it
    from aiinfra.train.team import Team

_HELP = {
    "steps": "steps of the optimizer",
    "seed": "of weights and of the order of texts; same seed, same model",
    "layers": "layers of the model",
    "width": "width of the model",
    "heads": "query heads",
    "kv_heads": "key and value heads",
    "feed_forward": "width of the feed-forward layers, or of one expert",
    "experts": "feed-forwards of each layer, of which a token takes a few; 0: a plain one",
    "experts_per_token": "of them, how many a token takes",
    "balance_loss": "times the loss that asks for an even load of the experts",
    "vocabulary": "at most so many tokens; learnt from the text",
    "length": "tokens a row",
    "rows": "rows a micro-batch",
    "accumulate": "micro-batches a step",
    "learning_rate": "the highest",
    "warmup": "steps until it is reached; at most a tenth of all",
    "weight_decay": "of matrices",
    "clip_norm": "the longest that a step's gradient may be",
    "save_every": "steps between checkpoints",
    "keep": "checkpoints that stay, besides the best",
    "recompute": "activations to compute again instead of keeping them: none, operation or block",
    "compile": "compile the layers; the first step takes a minute or two",
    "device": "cpu or cuda (None: a GPU if there is one)",
    "dtype": "to compute in; weights stay float32 (None: bfloat16 on a GPU, else float32)",
}


_MAY_BE_0 = ("experts", "warmup", "balance_loss", "weight_decay")


def add_train(parser: argparse.ArgumentParser) -> None:
    """The command's arguments: the files, and each setting of a run."""
    parser.add_argument("--data", type=file_to_read, required=True, metavar="FILE",
                        help="plain text in UTF-8; documents are divided by <|endoftext|>, or by empty lines")
    parser.add_argument("--out", type=folder_to_write, required=True, metavar="DIR",
                        help="the run's folder: metrics.jsonl, checkpoints, and the model in export")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in DIR")
    parser.add_argument("--tensorboard", action="store_true",
                        help="also write events to DIR/tensorboard, if TensorBoard is installed")
    for name, text in _HELP.items():
        _add_setting(parser, name, text)
    parser.set_defaults(run=run_train)


def _add_setting(parser: argparse.ArgumentParser, name: str, text: str) -> None:
    default = getattr(TrainOptions(), name)
    flag = "--" + name.replace("_", "-")
    if default is False:
        parser.add_argument(flag, action="store_true", help=text)
    else:
        parser.add_argument(flag, type=_reader(name, default), default=default, help=text)


def _reader(name: str, default: int | float | str | None) -> Callable[[str], Any]:
    """Reads the setting; a number that cannot be is refused before the text is, and a folder made."""
    if name == "seed":
        return whole(-2**63, 2**64 - 1)
    if isinstance(default, int):
        return whole(0 if name in _MAY_BE_0 else 1)
    if isinstance(default, float):
        return number(least=0) if name in _MAY_BE_0 else number(above=0)
    return str


def run_train(args: argparse.Namespace) -> None:
    """Train in this process, with a bar; at the end, export the model and say where it is."""
    from aiinfra.train.team import Alone
    train_with(args, Alone())


def train_with(args: argparse.Namespace, team: "Team") -> None:
    """Train together with a team, of which the first process shows what happens."""
    from tqdm import tqdm

    from aiinfra.device import as_device, as_dtype
    from aiinfra.perf.hardware import matmul_flops
    from aiinfra.train.run import TrainingRun
    device = as_device(args.device)
    peak_flops = matmul_flops(device, as_dtype(args.dtype, device), budget_seconds=0.2)
    events = None
    if args.tensorboard and team.first:
        from aiinfra.train.events import TensorBoard
        events = TensorBoard(args.out / "tensorboard")
    run = TrainingRun(args.data, args.out, options_of(args), args.resume, peak_flops, team)
    if team.first:
        print("\n".join(run.introduction()))
    bar = tqdm(total=args.steps, initial=run.step, unit="step", disable=not team.first)
    with _ctrl_c_noted() as pressed, bar:
        for record in run:
            bar.update()
            if events is not None:
                events.write(record)
            bar.set_postfix_str(f"loss {record.loss:.3f}, {record.tokens_per_second:,.0f} tokens/s")
            if team.any(bool(pressed)):
                run.save()
                raise KeyboardInterrupt
    folder = run.export()
    if team.first:
        print(f"the model: {folder}")


def options_of(args: argparse.Namespace) -> TrainOptions:
    """The settings that the command line gives."""
    return TrainOptions(**{name: getattr(args, name) for name in _HELP})


@contextmanager
def _ctrl_c_noted() -> Iterator[list[int]]:
    """A list that is empty until Ctrl-C is pressed; what is in hand can be finished. A second one
    interrupts."""
    pressed: list[int] = []

    def note(number: int, frame: object) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)
    before = signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
