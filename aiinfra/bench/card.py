"""`python -m aiinfra bench card`: the course's report card, one command and one table.

    text ─► train ─✗ killed, resumed ─► export ─► serve ─► load over HTTP ─► what users waited
               └ the same losses as one left alone?            └ beside what the simulator foretold

Every program is started as a reader would start it: `train`, `serve`, and a load of `bench serve`'s kind. The
forecast comes before the load: a few steps of the trained model are timed, and the scheduler is driven by
their price. Notebook 18.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from aiinfra.bench.http import Endpoint
from aiinfra.bench.measured import Measured
from aiinfra.bench.own_server import own_server
from aiinfra.bench.row import Row, digits
from aiinfra.bench.serve import Load, LoadTest
from aiinfra.checkpoint import load
from aiinfra.config import config
from aiinfra.engine.options import EngineOptions
from aiinfra.errors import plural
from aiinfra.files import write_text
from aiinfra.plan.fleet import FleetPlan, serve_fleet
from aiinfra.plan.fleet_report import FleetReport, report
from aiinfra.plan.latency import LatencyTarget
from aiinfra.plan.measured import measure_cost
from aiinfra.plan.traffic import TrafficShape, Turn, as_lines, draw

STORIES = Path(__file__).resolve().parents[2] / "data" / "stories" / "stories.txt"
_MODEL = ("--layers 2 --width 64 --heads 2 --kv-heads 1 --feed-forward 172 --vocabulary 512 --rows 4 "
          "--length 128 --seed 4 --device cpu").split()
_CHUNK = 128                         # of prompts beside decodes: what an engine chooses on a CPU
_BLOCKS = 4096                       # of cache: more than this load ever holds
_LOOK_SECONDS = 0.01
_LONGEST = 3600                      # seconds of load


@config
class CardOptions:
    """How long the card takes. Raises ValueError for a training that cannot be killed in its middle, and for
    a load of nobody."""

    data: Path = STORIES
    steps: int = 40                  # of each training
    rate: float = 4.0                # requests a second
    seconds: float = 10.0            # of load
    ttft: float = 0.5                # seconds that users will wait for a first token
    tpot: float = 0.05               # and for a token, on average
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 20:
            raise ValueError(f"steps={self.steps}; at least 20, to be killed in the middle of them.")
        for name in ("rate", "seconds", "ttft", "tpot"):
            if not 0 < getattr(self, name) <= _LONGEST:
                raise ValueError(f"{name}={getattr(self, name)!r}; it must be above 0 and at most "
                                 f"{_LONGEST:,}.")
        # An answer that has no second token has no time for it.
        if not any(turn.output_tokens > 1 for turn in self.turns()):
            raise ValueError(f"rate={self.rate:g}, seconds={self.seconds:g}: nobody comes who asks for two "
                             "tokens, so there is nothing to measure. Raise one of them.")

    def turns(self) -> list[Turn]:
        """The load. Lengths are a sixteenth of the published ones: the model reads 512 tokens."""
        shape = TrafficShape(seconds=self.seconds, per_second=self.rate, peak=1, pause_seconds=1,
                             scale=1 / 16, context=480)
        return draw(shape, self.seed)


@dataclass(frozen=True)
class CardRow(Row):
    """A row of the card: its stage, and what was foretold, if anything was."""

    stage: str = ""
    foretold: float | None = None

    def __str__(self) -> str:
        beside = ""
        if self.foretold is not None and self.ours:
            error = self.foretold / self.ours - 1
            beside = f"foretold {digits(self.foretold)} ({error:+.0%})"
        figure = "–" if self.ours is None else digits(self.ours)
        columns = f"{self.stage:8s} {self.name:32s} {figure:>8s} {self.unit:6s}"
        return "  ".join(part for part in (columns, beside, self.note) if part).rstrip()


def bench_card(options: CardOptions) -> Iterator[CardRow]:
    """The rows, as they come. Raises RuntimeError if a program fails, or a resumed training is another
    one."""
    folder = Path(tempfile.mkdtemp(prefix="card-"))
    try:
        yield from _trained(options, folder)
        model = folder / "killed" / "export"
        yield from _exported(model)
        yield from _served(options, model, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _trained(options: CardOptions, folder: Path) -> Iterator[CardRow]:
    begun = time.perf_counter()
    _finish(_train(options, folder / "whole"), options, folder / "whole")
    yield _row("train", "left alone", time.perf_counter() - begun, "s", note=plural(options.steps, "step"))
    losses = _losses(folder / "whole")
    yield _row("train", "loss, first step", losses[0], "nats")
    yield _row("train", "loss, last step", losses[-1], "nats")
    killed = _kill(options, folder / "killed")
    _finish(_train(options, folder / "killed", "--resume"), options, folder / "killed")
    same = sum(a == b for a, b in zip(losses, _losses(folder / "killed")))
    note = f"SIGKILL after step {killed}"
    yield _row("resume", "losses equal to the bit", same, "steps", foretold=options.steps, note=note)
    if same < options.steps:
        raise RuntimeError(f"only {same} of {options.steps} losses are those of the training left alone.")


def _train(options: CardOptions, out: Path, *more: str) -> subprocess.Popen:
    each = max(5, options.steps // 6)
    command = [sys.executable, "-m", "aiinfra", "train", "--data", str(options.data), "--out", str(out),
               "--steps", str(options.steps), "--save-every", str(each), *_MODEL, *more]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _finish(process: subprocess.Popen, options: CardOptions, out: Path) -> None:
    """Wait for it, with a bar. Raises RuntimeError with its last words if it fails."""
    try:
        with tqdm(total=options.steps, desc="train", unit="step", disable=None, leave=False) as bar:
            while process.poll() is None:
                bar.update(len(_losses(out)) - bar.n)
                time.sleep(_LOOK_SECONDS)
    finally:
        process.kill()
    said = process.communicate()[1].strip().splitlines() or ["nothing"]
    if process.returncode:
        raise RuntimeError(f"the training ended with status {process.returncode}; it said: {said[-1]}")


def _kill(options: CardOptions, out: Path) -> int:
    """Begin a training and kill it in its middle; returns the steps that it had done. Raises RuntimeError if
    it ended before."""
    process = _train(options, out)
    try:
        while process.poll() is None and len(_losses(out)) < options.steps // 2:
            time.sleep(_LOOK_SECONDS)
    finally:
        ended = process.poll()
        process.kill()
        process.communicate()
    if ended is not None:
        raise RuntimeError(f"the training that was to be killed ended before, with status {ended}: give it "
                           "more steps.")
    return len(_losses(out))


def _losses(out: Path) -> list[float]:
    """Of the steps that are written down, each a whole line."""
    file = out / "metrics.jsonl"
    if not file.exists():
        return []
    whole, _, _ = file.read_text(encoding="utf-8").rpartition("\n")
    return [json.loads(line)["loss"] for line in whole.split("\n") if line]


def _exported(model: Path) -> Iterator[CardRow]:
    nbytes = sum(file.stat().st_size for file in model.iterdir())
    yield _row("export", "a Hugging Face folder", nbytes / 1e6, "MB")


def _served(options: CardOptions, model: Path, folder: Path) -> Iterator[CardRow]:
    turns = options.turns()
    trace = folder / "trace.jsonl"
    write_text(trace, as_lines(turns))
    foretold = forecast(options, model, turns)
    begun = time.perf_counter()
    with own_server(str(model)) as url:
        yield _row("serve", "ready", time.perf_counter() - begun, "s")
        run = _asked(options, url, trace, load(model)[0].config.vocab_size)
    figures = run.figures()
    yield _row("load", "answered", figures["answered"], "req", foretold=len(turns))
    for name, figure, guess in (
        ("first token, P50", "first_token_p50", foretold.ttft_seconds[50]),
        ("first token, P99", "first_token_p99", foretold.ttft_seconds[99]),
        ("a token on average, P50", "per_token_p50", foretold.tpot_seconds[50]),
    ):
        yield _row("load", name, 1e3 * figures[figure], "ms", foretold=1e3 * guess)
    made = figures["output_tokens_per_second"]
    yield _row("load", "output", made, "tok/s", foretold=foretold.output_tokens_per_second)
    note = f"first token ≤ {options.ttft:g} s, a token ≤ {options.tpot:g} s"
    yield _row("load", "in time", 100 * run.in_time, "%", foretold=100 * foretold.in_time, note=note)


def forecast(options: CardOptions, model: Path, turns: Sequence[Turn]) -> FleetReport:
    """What the simulator says of these turns on an engine with usual settings: the price of its steps is
    measured here, on the model itself."""
    cost = measure_cost(load(model, dtype="float32", device="cpu")[0])
    plan = FleetPlan(
        replicas=1,
        blocks=_BLOCKS,
        token_budget=EngineOptions.token_budget,
        chunk_tokens=_CHUNK,
        max_running=EngineOptions.max_running)
    return report(serve_fleet(turns, plan, cost), _target(options), dollars_per_gpu_hour=0)


def _target(options: CardOptions) -> LatencyTarget:
    return LatencyTarget(ttft_seconds=options.ttft, tpot_seconds=options.tpot)


def _asked(options: CardOptions, url: str, trace: Path, vocab_size: int) -> Measured:
    asked = Load(rate=None, arrivals="trace", trace=trace, vocab_size=vocab_size,
                 target=_target(options), seed=options.seed)
    test = LoadTest(Endpoint(url), asked)
    for _ in test.rows():
        pass
    return test.runs[0]


def _row(stage: str, name: str, value: float, unit: str, foretold: float | None = None,
         note: str = "") -> CardRow:
    return CardRow(name, value, unit, note=note, stage=stage, foretold=foretold)
