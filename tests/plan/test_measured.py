"""A cost is measured on real steps, and says the same of a plan and of its integers."""

import math
import random

import pytest
from tests.engine.small_model import random_model

from aiinfra.engine.blocks import BlockPool
from aiinfra.engine.request import Request
from aiinfra.engine.scheduler import Scheduler
from aiinfra.model import ModelConfig
from aiinfra.plan.leap import DecodeCost
from aiinfra.plan.linear import LinearCost
from aiinfra.plan.machine import read_machine
from aiinfra.plan.measured import MeasuredCost, measure_cost
from aiinfra.plan.models import read_model
from aiinfra.plan.simulate import VirtualEngine
from aiinfra.plan.step_cost import ServingCost

SMALL = ModelConfig(vocab_size=256, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
                    num_key_value_heads=2, head_dim=16, intermediate_size=96, max_position_embeddings=256)
KNOWN = MeasuredCost(
    base=((1, 1.0), (2, 1.5), (4, 2.0), (8, 6.0)),
    request_seconds=0.25,
    context_seconds=0.001,
    pair_seconds=0.0001)


def test_a_small_model_is_measured_in_a_moment() -> None:
    turns = []
    cost = measure_cost(random_model(SMALL), turns=2, progress=turns.append)
    assert turns == [1, 1]
    sizes, seconds = zip(*cost.base)
    assert sizes == (1, 2, 4, 8, 16, 32, 64, 128)
    assert all(second > 0 for second in seconds)
    assert cost.request_seconds >= 0 and cost.context_seconds >= 0 and cost.pair_seconds >= 0
    assert len(list(cost.lines())) == 4


def test_each_number_counts_what_it_says() -> None:
    assert KNOWN.decode(1, 100) == pytest.approx(1.0 + 0.1)
    assert KNOWN.decode(3, 0) == pytest.approx(1.75 + 2 * 0.25), "on the line between 2 and 4 tokens"
    assert KNOWN.decode(10, 0) == pytest.approx(8.0 + 9 * 0.25), "on the last line, continued"
    pool = BlockPool(100, 4)
    scheduler = Scheduler(pool, token_budget=8, max_running=4, chunk_tokens=8)
    scheduler.add(Request("a", [1] * 12, 4))
    engine = VirtualEngine(scheduler, KNOWN)
    assert engine.step().model_seconds == pytest.approx(6.0), "8 tokens with nothing before them"
    assert engine.step().model_seconds == pytest.approx(2.0 + 4 * 8 * 0.0001), "4 tokens behind 8"


@pytest.mark.parametrize("cost", [
    KNOWN,
    LinearCost(0.01, 1e-4, 1e-6),
    ServingCost(read_model("llama-3.1-8b"), read_machine("H100")),
    ServingCost(read_model("deepseek-v3"), read_machine("H200"), drafts=1),
], ids=["measured", "linear", "dense", "experts"])
def test_a_step_of_decodes_costs_the_same_with_and_without_a_plan(cost: DecodeCost) -> None:
    draw = random.Random(0)
    scheduler = Scheduler(BlockPool(4000, 16), token_budget=4096, max_running=40)
    for i in range(40):
        scheduler.add(Request(str(i), [i] * draw.randint(20, 300), 9))
    engine = VirtualEngine(scheduler, cost)
    while scheduler.waiting or any(r.pending > 1 for r in scheduler.running):
        engine.step()
    plan = scheduler.plan()
    assert cost.decode(40, sum(work.end for work in plan.work)) == cost(plan)
    assert math.isfinite(cost(plan)) and cost(plan) > 0
