"""What others have measured, beside what we predict: the planner's report card.

    data/published_serving.csv     a row: model, GPUs, split, lengths, load ──> a figure, and who published it
    a family with a "calibrate" row: launch_seconds is chosen so that this row comes out; it does not count
    every other row                 is predicted, and its signed error printed, whatever it is

One number is calibrated, the same for all rows of a family: what a kernel costs besides its work, because
engines differ in how many kernels they need for a layer. Everything else is the machine's sheet and kernels'
measured efficiency, and four numbers that are the same for everything (machine.py says which). Families
without such a row are predicted as they come; of them, those called hold-out were never looked at to set a
number. Two things are said too well, and the table shows by how much: the largest throughput ("most"), and
the first token where nobody queues, because clients of a benchmark come in bursts and through a front end,
which is not in here. Notebook 18.
"""

import csv
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import median

from aiinfra.errors import LoadError
from aiinfra.perf.training import matrix_weights
from aiinfra.plan.machine import read_machine
from aiinfra.plan.models import read_model
from aiinfra.plan.serving import Deployment, ServingLoad, decode_seconds, prefill_tokens_per_s, size
from aiinfra.plan.split import ServingSplit, precision_of

TABLE = Path(__file__).parents[2] / "data" / "published_serving.csv"
_LAUNCHES = (1e-6, 5e-6)                # between which a calibration looks, and not far beyond
_LEAST, _MOST = 0.5e-6, 12e-6
_NUMBERS = ("tp", "dp", "ep", "redundant", "input", "output", "load", "cached", "drafts")


@dataclass(frozen=True)
class PublishedRow:
    """A line of the table. load: clients of all GPUs ("loop"), requests of a group ("decode"), tokens of a
    group in a step ("prefill"); nothing where as many are served as there is room for ("most")."""

    family: str
    role: str                           # "calibrate" or "predict"
    model: str
    gpu: str
    engine: str
    tp: int
    dp: int
    ep: int
    redundant: int
    two_batches: bool
    imbalance: float | None
    precision: str
    kv: str
    kind: str
    input: int
    output: int
    load: int
    cached: int
    drafts: int
    accepted: float
    metric: str
    measured: float
    source: str

    @property
    def name(self) -> str:
        """What distinguishes it within its family."""
        split = f"tp{self.tp}"
        if self.dp > 1 or self.ep > 1:
            split += f" dp{self.dp} ep{self.ep}"
        lengths = f"{self.input:,}"
        if self.output:
            lengths += f"/{self.output:,}"
        return f"{self.gpu} {split} {self.precision} {self.kind} {lengths} at {self.load or 'most'}"


@dataclass(frozen=True)
class CheckedRow:
    """A row and what was predicted for it."""

    row: PublishedRow
    predicted: float

    @property
    def error(self) -> float:
        """Signed, as a share of what was measured."""
        return self.predicted / self.row.measured - 1

    def as_json(self) -> dict:
        """Plain values."""
        return asdict(self.row) | {"predicted": self.predicted, "error": self.error}


def read_rows(path: Path = TABLE) -> list[PublishedRow]:
    """All rows. Raises LoadError for a table that has other columns."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        names = [field.name for field in fields(PublishedRow)]
        if reader.fieldnames != names:
            raise LoadError(f"{path.name} has the columns {reader.fieldnames}; expected are {names}.")
        return [_row(raw) for raw in reader]


def _row(raw: dict[str, str]) -> PublishedRow:
    numbers = {name: int(raw[name] or 0) for name in _NUMBERS}
    imbalance = float(raw["imbalance"]) if raw["imbalance"] else None
    known = raw | numbers | {
        "two_batches": raw["two_batches"] == "1",
        "imbalance": imbalance,
        "accepted": float(raw["accepted"] or 0),
        "measured": float(raw["measured"]),
    }
    return PublishedRow(**known)


def check(rows: Iterable[PublishedRow],
          progress: Callable[[Iterable], Iterable] = iter) -> Iterator[CheckedRow]:
    """Calibrate each family on its row, if it has one, and predict the others; in their order."""
    rows = list(rows)
    launches = {row.family: calibrated(row) for row in rows if row.role == "calibrate"}
    for row in progress([row for row in rows if row.role == "predict"]):
        yield CheckedRow(row, predict(row, launches.get(row.family)))


def calibrated(row: PublishedRow) -> float:
    """Seconds of a launch with which this row comes out: the time of a step is linear in it."""
    low, high = (predict(row, seconds) for seconds in _LAUNCHES)
    slope = (high - low) / (_LAUNCHES[1] - _LAUNCHES[0])
    wanted = _LAUNCHES[0] + (row.measured - low) / slope
    return min(_MOST, max(_LEAST, wanted))


def predict(row: PublishedRow, launch_seconds: float | None = None) -> float:
    """What we say to this row, in its unit. launch_seconds: None takes the machine's."""
    return _KINDS[row.kind](row, deployment_of(row, launch_seconds))


def deployment_of(row: PublishedRow, launch_seconds: float | None = None) -> Deployment:
    """The row's model on its machine."""
    machine = read_machine(row.gpu)
    efficiency = machine.efficiency
    if launch_seconds is not None:
        efficiency = replace(efficiency, launch_seconds=launch_seconds)
    split = ServingSplit(
        tp=row.tp,
        dp=row.dp,
        ep=row.ep,
        redundant_experts=row.redundant,
        two_batches=row.two_batches)
    if row.imbalance is not None:
        split = replace(split, imbalance=row.imbalance)
    return Deployment(
        model=read_model(row.model),
        machine=machine,
        split=split,
        precision=row.precision,
        kv=row.kv,
        drafts=row.drafts,
        accepted=row.accepted,
        efficiency=efficiency)


def _loop(row: PublishedRow, deployment: Deployment) -> float:
    load = ServingLoad(input_tokens=row.input, output_tokens=row.output, concurrency=row.load)
    answer = size(deployment, load)
    if row.metric == "tpot_ms":
        return 1e3 * answer.tpot_seconds
    if row.metric == "ttft_ms":
        return 1e3 * answer.state.ttft_seconds
    if row.metric == "speed_tokens_per_s":                  # of one request, its prompt included
        seconds = answer.state.ttft_seconds + (row.output - 1) * answer.tpot_seconds
        return (row.input + row.output) / seconds
    return answer.output_tokens_per_s


def _most(row: PublishedRow, deployment: Deployment) -> float:
    room = deployment.holding.kv_tokens / (row.input + row.output / 2)
    clients = deployment.groups * (1 + int(min(deployment.max_running, 1.3 * room)))
    load = ServingLoad(input_tokens=row.input, output_tokens=row.output, concurrency=clients)
    return size(deployment, load).output_tokens_per_s / deployment.split.gpus


def _prefill(row: PublishedRow, deployment: Deployment) -> float:
    rate = prefill_tokens_per_s(deployment, row.input, cached=row.cached, tokens=row.load)
    return rate / deployment.split.gpus * _gpus_meant(row, deployment)


def _decode(row: PublishedRow, deployment: Deployment) -> float:
    rate = row.load / decode_seconds(deployment, row.load, row.input)
    return rate / deployment.split.tp * _gpus_meant(row, deployment)


def _gpus_meant(row: PublishedRow, deployment: Deployment) -> int:
    return deployment.machine.gpus_per_node if row.metric.endswith("per_node") else 1


_KINDS = {"loop": _loop, "most": _most, "prefill": _prefill, "decode": _decode}


def roofline_alone(row: PublishedRow) -> float:
    """Tokens a second of one request if nothing but the weights that a token takes had to be read: what would
    be said without launches, links and tiles."""
    deployment = deployment_of(row)
    model, machine = deployment.model, deployment.machine
    nbytes = matrix_weights(model.config) * precision_of(row.precision).matrix_bits / 8
    return machine.sheet.bandwidth * deployment.split.gpus / nbytes


def median_error(checked: Iterable[CheckedRow]) -> float:
    """Of the absolute errors."""
    return median(abs(one.error) for one in checked)
