"""What the capstone's readers choose from: GPUs for hire, and days of traffic to be carried on them.

    offer   a GPU, how many of them hold the model, room for its cache, a price      ─┐
    day     requests, and what their users will wait                                 ─┴─► FleetReport

The price of a step is `plan.step_cost`'s, made straight (`LinearCost`), so that a day takes a moment. Dollars
are a list of ours, not anybody's. Used by page 18 and its judges.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from aiinfra.errors import nearest
from aiinfra.plan.fleet import FleetPlan, serve_fleet
from aiinfra.plan.fleet_report import FleetReport, report
from aiinfra.plan.latency import LatencyTarget
from aiinfra.plan.linear import LinearCost
from aiinfra.plan.machine import read_machine
from aiinfra.plan.models import ServedModel, read_model
from aiinfra.plan.split import ServingSplit, holding_of
from aiinfra.plan.step_cost import ServingCost, StepLoad
from aiinfra.plan.traffic import TrafficShape, Turn, draw

FREE = ("router", "chunk_tokens", "token_budget", "max_running", "autoscale")      # what readers may set
_BLOCK = 16
_ROWS, _BEHIND = 64, 1024             # a step of decodes, for the slope of the cache
_MOST = 3                             # replicas that a reference tries
_CHAT = TrafficShape(seconds=64, per_second=3, day_seconds=64, peak=1.8, pause_seconds=6)


@dataclass(frozen=True)
class Offer:
    """Replicas for hire. dollars: of one GPU, an hour."""

    gpu: str
    gpus_each: int
    dollars: float
    blocks: int                       # of the cache, beside the weights
    cost: LinearCost

    @property
    def name(self) -> str:
        """For instance: 2 × H100."""
        return f"{self.gpus_each} × {self.gpu}"

    @property
    def hourly(self) -> float:
        """Dollars of a replica, an hour."""
        return self.gpus_each * self.dollars


def offer(model: ServedModel, gpu: str, gpus_each: int, dollars: float) -> Offer:
    """A replica of the model, in 16 bits, on so many of these GPUs. Raises ValueError if it does not fit."""
    machine, split = read_machine(gpu), ServingSplit(tp=gpus_each)
    held = holding_of(model, machine, split)
    if held.kv_tokens < _BLOCK:
        weights, usable = held.weight_bytes / 1e9, held.usable_bytes / 1e9
        raise ValueError(f"{model.name} does not fit on {gpus_each} × {gpu}: weights of {weights:.0f} GB on "
                         f"each, {usable:.0f} GB to use. Take more GPUs.")
    return Offer(
        gpu=gpu,
        gpus_each=gpus_each,
        dollars=dollars,
        blocks=held.kv_tokens // _BLOCK,
        cost=straight(ServingCost(model, machine, split)))


def straight(cost: ServingCost) -> LinearCost:
    """The line through three of its steps: one answer, many with a cache behind them, a piece of a prompt."""
    def answers(count: int, behind: int) -> float:
        context = count * behind
        return cost.seconds(StepLoad(tokens=count, answers=count, context=context, decode_pairs=context))

    alone = answers(1, 1)
    piece = cost.seconds(StepLoad(tokens=512, answers=1, prompt_pairs=512 * 256.5))
    token_seconds = (piece - alone) / 511
    context_seconds = (answers(_ROWS, _BEHIND) - answers(_ROWS, 1)) / (_ROWS * (_BEHIND - 1))
    return LinearCost(alone, token_seconds, context_seconds)


def price_list(model: str = "qwen3-32b", dear: float = 1.0) -> dict[str, Offer]:
    """What can be hired for this model. dear: times the usual price of the newer GPUs."""
    known = read_model(model)
    offers = (
        offer(known, "H20", 1, 1.0),
        offer(known, "H20", 2, 1.0),
        offer(known, "A100", 2, 1.4),
        offer(known, "H100", 2, 2.4 * dear),
        offer(known, "H200", 1, 3.0 * dear),
    )
    return {one.name: one for one in offers}


@dataclass(frozen=True)
class Day:
    """Traffic that has to be carried, for users who will wait so long."""

    turns: Sequence[Turn]
    target: LatencyTarget
    offers: dict[str, Offer]

    def run(self, name: str, replicas: int, **settings: Any) -> FleetReport:
        """What becomes of it with so many replicas of an offer; `settings` as FleetPlan has them. Raises
        ValueError for an offer or a setting that there is not."""
        if name not in self.offers:
            raise ValueError(f"there is no offer {name!r}. There are: {', '.join(self.offers)}.")
        chosen = self.offers[name]
        plan = FleetPlan(replicas=replicas, blocks=chosen.blocks, gpus_each=chosen.gpus_each, **settings)
        return report(serve_fleet(self.turns, plan, chosen.cost), self.target, chosen.dollars)

    def try_out(self, name: str, replicas: int, **settings: Any) -> FleetReport:
        """The same from settings that suit most: a conversation goes back to its replica, prompts are read in
        pieces of 512 tokens. Raises ValueError for a setting that is not the reader's to choose."""
        if others := [key for key in settings if key not in FREE]:
            raise ValueError(f"{others[0]} is not yours to set.{nearest(others[0], FREE)} Yours are: "
                             f"{', '.join(FREE)}.")
        usual = {"router": "prefix aware", "chunk_tokens": 512}
        return self.run(name, replicas, **(usual | settings))

    def naive(self) -> FleetReport:
        """What is bought without a thought: the dearest offer, one replica to carry it and one to spare,
        taking turns."""
        return self.run("2 × H100", 2, router="round robin")

    def reference(self) -> FleetReport:
        """The cheapest among the smallest fleets of each offer that keep the target."""
        found = []
        for name in self.offers:
            for replicas in range(1, _MOST + 1):
                tried = self.try_out(name, replicas)
                if tried.score < inf:
                    found.append(tried)
                    break
        return min(found, key=lambda one: one.score)


def budgets() -> dict[str, Day]:
    """Three days of a chat service with Qwen3-32B: users who wait, users who do not, and a dear market."""
    days = {}
    for name, seed, ttft, tpot, dear in (
        ("a chat", 1, 2.0, 0.050, 1.0),
        ("a voice", 3, 1.0, 0.025, 1.0),
        ("a chat in a dear market", 2, 2.0, 0.060, 3.0),
    ):
        target = LatencyTarget(ttft_seconds=ttft, tpot_seconds=tpot, share=0.95)
        days[name] = Day(draw(_CHAT, seed), target, price_list(dear=dear))
    return days


def engines() -> dict[str, Day]:
    """One engine each on three machines, near the edge of what it can carry: prompts and answers of an
    eighth."""
    found = {}
    for name, seed, rate, seconds, target, cost in (
        ("tokens must come quickly", 1, 10, 10, (3.0, 0.030), (0.008, 0.0004)),
        ("a machine on which rows are dear", 2, 9, 10, (2.0, 0.035), (0.006, 0.0009)),
        ("a machine on which steps are dear", 3, 16, 8, (1.5, 0.25), (0.030, 0.0002)),
    ):
        shape = TrafficShape(
            seconds=seconds, per_second=rate, peak=1, pause_seconds=4, scale=1 / 8, context=1024)
        ttft, tpot = target
        step, token = cost
        machine = Offer(gpu="this machine", gpus_each=1, dollars=1.0, blocks=2000,
                        cost=LinearCost(step, token, 1e-6))
        found[name] = Day(draw(shape, seed), LatencyTarget(ttft, tpot, share=0.9), {"this machine": machine})
    return found
