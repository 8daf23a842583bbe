"""Requests that others have timed, one by one: does the simulator tell their distribution, not only a mean?

    data/vllm_requests.csv   when each of 300 requests came, had its first and its last token, on vLLM 0.19
    the same arrivals ──► our scheduler with vLLM's settings, ServingCost · one factor ──► TTFT, TPOT, errors

The factor is what their kernels make better or worse of the machine's data sheet than those that ServingCost
knows. It is set so that one figure is right, the median TPOT; all others are predicted. Source: LLMServingSim
2.0 (ISPASS 2026, MIT license), bench/examples, read on 2026-08-21. Notebook 18.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aiinfra.engine.scheduler import Plan
from aiinfra.perf.collectives import Link
from aiinfra.perf.hardware import Hardware
from aiinfra.perf.timing import percentile
from aiinfra.plan.fleet import FleetPlan, FleetRun, serve_fleet
from aiinfra.plan.latency import Waits
from aiinfra.plan.leap import DecodeCost
from aiinfra.plan.machine import Machine
from aiinfra.plan.models import read_model
from aiinfra.plan.split import ServingSplit, holding_of
from aiinfra.plan.step_cost import ServingCost
from aiinfra.plan.traffic import Turn

_FILE = Path(__file__).resolve().parents[2] / "data" / "vllm_requests.csv"
_QUANTILES = (10, 50, 90, 99)
_CALIBRATED = "TPOT P50"
_ROUNDS = 6                          # to find the factor: TPOT grows a little faster than it
_PCIE = Link(latency_seconds=10e-6, bytes_per_second=25e9)
_RTX_4090 = Hardware("RTX 4090", memory_bytes=24e9, bandwidth=1.008e12, float32=82.6e12, bfloat16=165.2e12,
                     source="NVIDIA Ada whitepaper; LLMServingSim's config (bandwidth)")
_RTX_PRO_6000 = Hardware("RTX PRO 6000", memory_bytes=96e9, bandwidth=1.597e12, float32=120e12,
                         bfloat16=500e12, source="NVIDIA data sheet; LLMServingSim's config (bandwidth)")


@dataclass(frozen=True)
class TimedRequest(Waits):
    """One line of the file; seconds since the first request came."""

    arrival_seconds: float
    prompt_tokens: int
    output_tokens: int
    first_seconds: float
    last_seconds: float


@dataclass(frozen=True)
class Setup:
    """What was served on what, and how. blocks: of 16 tokens that vLLM had; None: as many as we find room
    for."""

    name: str
    model: str
    sheet: Hardware
    groups: int                  # schedulers, each with a GPU; experts are spread over all
    max_running: int
    blocks: int | None = None


SETUPS = {setup.name: setup for setup in (
    Setup("llama-3.1-8b on 1 × RTX 4090", "llama-3.1-8b", _RTX_4090, groups=1, max_running=256, blocks=2588),
    Setup("qwen3-30b-a3b on 2 × RTX PRO 6000", "qwen3-30b-a3b", _RTX_PRO_6000, groups=2, max_running=128),
)}


@dataclass(frozen=True)
class RecordedRow:
    """A figure as it was measured, and as it is simulated."""

    setup: str
    figure: str
    measured: float
    simulated: float

    @property
    def error(self) -> float:
        """Of the simulator, relative."""
        return self.simulated / self.measured - 1

    @property
    def calibrated(self) -> bool:
        """True for the one figure that the factor was set by."""
        return self.figure == _CALIBRATED

    def __str__(self) -> str:
        note = "   set by the factor" if self.calibrated else ""
        return f"{self.figure:18}{self.measured:10.4g}{self.simulated:11.4g}{self.error:+9.1%}{note}"


class ScaledCost:
    """Another cost times a factor."""

    def __init__(self, cost: DecodeCost, factor: float) -> None:
        self.cost = cost
        self.factor = factor

    def __call__(self, plan: Plan) -> float:
        """Of the plan's step."""
        return self.factor * self.cost(plan)

    def decode(self, requests: int, context: int) -> float:
        """See `plan.leap.DecodeCost`."""
        return self.factor * self.cost.decode(requests, context)


def timed_requests(setup: str) -> list[TimedRequest]:
    """The lines of the file that belong to this setup, in order of arrival."""
    lines = [line for line in _FILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return [
        TimedRequest(
            arrival_seconds=float(row["arrival_seconds"]),
            prompt_tokens=int(row["prompt_tokens"]),
            output_tokens=int(row["output_tokens"]),
            first_seconds=float(row["first_seconds"]),
            last_seconds=float(row["last_seconds"]))
        for row in csv.DictReader(lines) if row["setup"] == setup
    ]


def recorded_rows(setup: Setup) -> Iterator[RecordedRow]:
    """All figures of one setup."""
    requests = timed_requests(setup.name)
    wanted = _figures(requests)
    factor = 1.0
    for _ in range(_ROUNDS):
        found = _figures(simulated(setup, requests, factor).visits)
        factor *= wanted[_CALIBRATED] / found[_CALIBRATED]
    for figure, value in wanted.items():
        yield RecordedRow(setup=setup.name, figure=figure, measured=value, simulated=found[figure])


def simulated(setup: Setup, requests: list[TimedRequest], factor: float) -> FleetRun:
    """The same arrivals on our scheduler, at `factor` times the price of its steps."""
    model = read_model(setup.model)
    machine = Machine(sheet=setup.sheet, nvlink=_PCIE, network=_PCIE)
    split = ServingSplit(dp=setup.groups, ep=setup.groups)
    blocks = setup.blocks or holding_of(model, machine, split).kv_tokens // 16
    # vLLM's default of 2,048 tokens a step; no two of these prompts begin alike.
    plan = FleetPlan(
        replicas=setup.groups,
        blocks=blocks,
        token_budget=2048,
        max_running=setup.max_running,
        prefix_caching=False)
    turns = [
        Turn(
            arrival_seconds=request.arrival_seconds,
            conversation=number,
            prompt_tokens=request.prompt_tokens,
            output_tokens=request.output_tokens)
        for number, request in enumerate(requests)
    ]
    return serve_fleet(turns, plan, ScaledCost(ServingCost(model, machine, split), factor))


def _figures(served: list) -> dict[str, float]:
    """Percentiles of both waits, and when the last token came; of TimedRequests or Visits."""
    firsts = [one.ttft_seconds for one in served]
    each = [one.tpot_seconds for one in served]
    figures = {f"TTFT P{q}": percentile(firsts, q) for q in _QUANTILES}
    figures["TTFT mean"] = sum(firsts) / len(firsts)
    figures |= {f"TPOT P{q}": percentile(each, q) for q in _QUANTILES}
    figures["TPOT mean"] = sum(each) / len(each)
    tokens = sum(one.output_tokens for one in served)
    figures["tokens a second"] = tokens / max(one.last_seconds for one in served)
    return figures
