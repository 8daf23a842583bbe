"""A step's seconds: limits that hold whatever is measured, and kernels that somebody else has measured."""

import time

import pytest

from aiinfra.engine.request import Request
from aiinfra.engine.scheduler import Plan, Work
from aiinfra.plan.machine import read_machine
from aiinfra.plan.models import MODELS
from aiinfra.plan.split import ServingSplit
from aiinfra.plan.step_cost import ServingCost, StepLoad


def decoding(requests: int, context: int) -> StepLoad:
    together = requests * context
    return StepLoad(tokens=requests, answers=requests, context=together, decode_pairs=together,
                    windowed=requests * min(context, 128))


def cost_of(model: str = "llama-3.1-8b", gpu: str = "H100", precision: str = "bf16",
            **split: int) -> ServingCost:
    return ServingCost(MODELS[model], read_machine(gpu), ServingSplit(**split), precision=precision)


def seconds_of(cost: ServingCost, part: str, load: StepLoad) -> float:
    return sum(one.seconds for one in cost.parts(load) if one.name == part)


def test_the_parts_add_up_and_a_plan_is_its_integers() -> None:
    cost = cost_of()
    asked = Request("a", [0] * 1000, 10)
    asked.computed = 999
    longer = Request("b", [0] * 4000, 10)
    plan = Plan(work=[Work(asked, 999, 1), Work(longer, 0, 500)], copies=[], admitted=[], preempted=[])
    load = cost.load(plan)
    assert load.tokens == 501 and load.answers == 1 and load.context == 1000
    assert load.prompt_pairs == sum(range(1, 501)), "each token of a prompt sees those before it and itself"
    assert cost(plan) == pytest.approx(sum(part.seconds for part in cost.explain(plan)))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("gpu", ["H20", "H100", "H200", "H800", "A100", "B200"])
def test_no_step_beats_the_roofline(model: str, gpu: str) -> None:
    """At batch 1 at least the active weights are read; a long prompt costs at least its FLOPs."""
    cost = cost_of(model, gpu)
    sheet = cost.machine.sheet
    active = 2 * 0.9 * MODELS[model].active_billions * 1e9            # without the table of the vocabulary
    assert cost.seconds(decoding(1, 1)) > active / sheet.bandwidth
    prompt = StepLoad(tokens=8192, answers=1, prompt_pairs=8192 * 8193 / 2)
    assert cost.seconds(prompt) > 8192 * active / sheet.bfloat16


def test_more_work_never_takes_less_time() -> None:
    cost = cost_of("deepseek-r1", "H200", "fp8", tp=8)
    steps = [cost.seconds(decoding(batch, 2000)) for batch in (1, 2, 8, 32, 64, 65, 128, 512)]
    assert steps == sorted(steps)
    contexts = [cost.seconds(decoding(32, context)) for context in (100, 1000, 10_000)]
    assert contexts == sorted(contexts)


def test_small_batches_pay_for_launches_and_the_host() -> None:
    """R1 on 8 H200, 4 requests: 10.3 ms a token were measured, where reading alone would take under 4."""
    cost = cost_of("deepseek-r1", "H200", "fp8", tp=8)
    parts = {part.bound: 0.0 for part in cost.parts(decoding(4, 1400))}
    for part in cost.parts(decoding(4, 1400)):
        parts[part.bound] += part.seconds
    assert parts["memory"] < 4e-3
    assert parts["launches"] + parts["host"] > parts["memory"]


def test_experts_that_are_hit_are_read_not_those_of_a_token() -> None:
    """4 tokens of 8 out of 256 hit 30 experts, 64 tokens 222: 7 times the bytes for 16 times the tokens."""
    cost = cost_of("deepseek-r1", "H200", "fp8", tp=8)
    few, many = (seconds_of(cost, "experts", decoding(batch, 1)) for batch in (4, 64))
    assert many / few == pytest.approx(222.4 / 30.5, rel=0.05)


def test_an_uneven_router_costs_what_its_busiest_rank_has() -> None:
    even = cost_of("deepseek-r1", "H800", "fp8", dp=32, ep=32, imbalance=1)
    uneven = cost_of("deepseek-r1", "H800", "fp8", dp=32, ep=32, imbalance=1.3)
    load = StepLoad(tokens=8192, answers=2, prompt_pairs=2 * 4096 * 4097 / 2)
    more = seconds_of(uneven, "experts", load) / seconds_of(even, "experts", load)
    assert more == pytest.approx(1.3, rel=0.01)


def test_data_parallel_attention_reads_an_eighth_of_the_latent_cache() -> None:
    """Under tp every rank reads everybody's vectors; with a group for each GPU only its own requests'."""
    together = cost_of("deepseek-r1", "H200", "fp8", tp=8)
    apart = cost_of("deepseek-r1", "H200", "fp8", dp=8, ep=8)
    part = "attention of answers"
    assert seconds_of(together, part, decoding(256, 4000)) > 3 * seconds_of(apart, part, decoding(32, 4000))


def test_a_window_is_all_that_half_of_the_layers_read() -> None:
    cost = cost_of("gpt-oss-120b", "H100")
    part = "attention of answers"
    short, long = (seconds_of(cost, part, decoding(1, context)) for context in (128, 12_800))
    assert long / short == pytest.approx((100 + 1) / 2)


# Kernels on H20 and H800 that InferSim has measured (bench_data, Apache-2.0): rows, inputs, outputs, µs.
MEASURED = [
    ("H20", 16, 4096, 24576, 53.4), ("H20", 64, 5120, 51200, 142.6), ("H20", 128, 25600, 5120, 136.5),
    ("H20", 1024, 4096, 6144, 201.8), ("H20", 16384, 5120, 7168, 4310.0), ("H20", 16, 7168, 576, 10.1),
    ("H800", 16, 7168, 36864, 98.7), ("H800", 256, 7168, 36864, 127.1), ("H800", 128, 18432, 7168, 62.3),
    ("H800", 4096, 16384, 7168, 649.1), ("H800", 16, 7168, 576, 9.9), ("H800", 64, 16384, 512, 17.7),
    ("H800", 1024, 7168, 4096, 46.3)]


@pytest.mark.parametrize(("gpu", "rows", "inputs", "outputs", "microseconds"), MEASURED)
def test_a_product_takes_what_was_measured(gpu: str, rows: int, inputs: int, outputs: int,
                                           microseconds: float) -> None:
    from aiinfra.plan.split import RankMatrix
    cost = cost_of("deepseek-r1", gpu, "fp8", tp=8)
    matrix = RankMatrix(part="one", inputs=inputs, outputs=outputs, layers=1, bits=8, compute_bits=8)
    product = cost._product(matrix)
    seconds = product.bound(rows)[1] + cost.efficiency.launch_seconds
    assert 1e6 * seconds == pytest.approx(microseconds, rel=0.3)


def test_it_is_quick_enough_for_a_day_of_traffic() -> None:
    cost = cost_of("deepseek-r1", "H200", "fp8", tp=8)
    load = decoding(64, 1400)
    began = time.perf_counter()
    for _ in range(200):
        cost.seconds(load)
    assert (time.perf_counter() - began) / 200 < 1e-3
