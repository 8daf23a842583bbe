"""What a deployment does under a load: the scheduler's queue, the knee where the cache is full, the price."""

import json
import math
from dataclasses import replace

import pytest

from aiinfra.__main__ import main
from aiinfra.plan.machine import read_machine
from aiinfra.plan.models import MODELS
from aiinfra.plan.serving import (Deployment, ServingAnswer, ServingLoad, decode_seconds, knee,
                                  prefill_tokens_per_s, shortage, size, size_apart, size_at_rate, sweep)
from aiinfra.plan.split import ServingSplit


def deployment(model: str = "llama-3.1-8b", gpu: str = "H100", precision: str = "bf16", kv: str = "bf16",
               **split: int) -> Deployment:
    return Deployment(model=MODELS[model], machine=read_machine(gpu), split=ServingSplit(**split),
                      precision=precision, kv=kv)


def asked(clients: int = 1, inputs: int = 1000, outputs: int = 200) -> ServingLoad:
    return ServingLoad(input_tokens=inputs, output_tokens=outputs, concurrency=clients)


def seconds_of_a_request(answer: ServingAnswer) -> float:
    return answer.state.ttft_seconds + (answer.load.output_tokens - 1) * answer.state.tpot_seconds


@pytest.mark.parametrize("clients", [1, 2, 7, 40])
def test_clients_are_requests_a_second_times_their_seconds(clients: int) -> None:
    """Little's law: what the window measured by parts is one whole."""
    answer = size(deployment(), asked(clients))
    together = answer.state.requests_per_second * seconds_of_a_request(answer)
    assert together == pytest.approx(clients, rel=0.06)


def test_one_client_is_the_closed_form() -> None:
    """Nobody else is there: a prompt's step, then as many steps as tokens."""
    where = deployment("deepseek-r1", "H200", "fp8", tp=8)
    answer = size(where, asked(1, 2000, 400))
    expected = decode_seconds(where, 1, 2200)
    assert answer.tpot_seconds == pytest.approx(expected, rel=0.01)
    assert answer.state.ttft_seconds == pytest.approx(2000 / prefill_tokens_per_s(where, 2000, tokens=2000))


def test_a_long_prompt_is_read_in_pieces() -> None:
    where = deployment("qwen3-235b-a22b", "H20", tp=8)
    long, short = (size(where, asked(1, length, 100)).state.ttft_seconds for length in (80_000, 8_000))
    assert long > 10 * short, "each piece sees all before it"


def test_many_clients_are_the_closed_form_of_mixed_steps() -> None:
    """With room for all, a step decodes everybody, and prompts come as often as answers end."""
    where = deployment("llama-3.1-70b", "H100", "fp8", tp=8)
    answer = size(where, asked(32, 1000, 500))
    alone = decode_seconds(where, 32, 1250)
    prompt = 1000 / prefill_tokens_per_s(where, 1000, tokens=1000)
    assert alone < answer.tpot_seconds < alone + 32 / 500 * prompt


# Published curves with a knee (NVIDIA's NIM, vLLM in aiconfigurator's sample), each with the last number of
# clients before the time to the first token jumps.
CURVES = {
    "NIM 5,000/500": ("fp8", 5000, 500, (1, 5, 25, 50, 100, 150, 200, 250), 50),
    "vLLM 8k/1k": ("bf16", 7373, 922, (4, 8, 16, 32, 64), 16),
}


@pytest.mark.parametrize("name", CURVES)
def test_both_public_knees_are_within_a_grid_point(name: str) -> None:
    """Past the knee tokens take no longer, and the first one waits in proportion to who is ahead."""
    kv, inputs, outputs, grid, measured = CURVES[name]
    where = deployment("llama-3.1-70b", "H100", "fp8", kv, tp=2)
    found = sweep(where, asked(1, inputs, outputs), grid)
    best = knee(found)
    assert abs(grid.index(best.load.concurrency) - grid.index(measured)) <= 1
    one, other = found[-2:]
    if not one.queued:
        return
    assert other.tpot_seconds == pytest.approx(one.tpot_seconds, rel=0.02)
    more = (other.load.concurrency - one.load.concurrency) / other.state.requests_per_second
    assert other.state.ttft_seconds - one.state.ttft_seconds == pytest.approx(more, rel=0.05)
    assert "queued" in other.as_json()["why"] and other.as_json()["queued"]


def test_cached_tokens_are_counted_apart() -> None:
    """They come in, and are not run."""
    plain = size(deployment(), asked(8))
    cached = size(deployment(), replace(asked(8), shared_prefix=800))
    assert plain.computed_input_tokens_per_s == plain.input_tokens_per_s
    assert cached.computed_input_tokens_per_s == pytest.approx(0.2 * cached.input_tokens_per_s, rel=0.05)
    assert cached.tpot_seconds < plain.tpot_seconds


def test_guesses_are_stated_and_pay_where_weights_bind() -> None:
    plain = size(deployment(), asked(2, 1000, 400))
    guessing = size(replace(deployment(), drafts=2, accepted=1.5), asked(2, 1000, 400))
    assert guessing.as_json()["accepted_guesses"] == 1.5
    assert 2 < plain.tpot_seconds / guessing.tpot_seconds < 2.5


def test_replicas_share_the_clients() -> None:
    one = size(deployment(), asked(16))
    four = size(replace(deployment(), gpus=4), asked(64))
    assert four.output_tokens_per_s == pytest.approx(4 * one.output_tokens_per_s)
    assert four.tpot_seconds == one.tpot_seconds
    assert four.dollars_per_million(3.6) == pytest.approx(one.dollars_per_million(3.6))
    assert one.dollars_per_million(3.6) == pytest.approx(1000 / one.output_tokens_per_s)


def test_one_client_of_many_groups_is_one_client() -> None:
    """Who are fewer than the groups leave some idle, and are not counted for each; beyond room all are
    busy."""
    alone = size(deployment(), asked(1))
    for gpus, clients in ((4, 1), (8, 3), (8, 12)):
        several = size(replace(deployment(), gpus=gpus), asked(clients))
        each = size(deployment(), asked(-(-clients // gpus)))
        assert several.tpot_seconds == each.tpot_seconds
        share = clients / each.load.concurrency
        assert several.output_tokens_per_s == pytest.approx(share * each.output_tokens_per_s)
        assert several.as_json()["running"] == pytest.approx(share * each.state.running)
    four = size_at_rate(replace(deployment(), gpus=4), asked(), alone.requests_per_s)
    assert four.load.concurrency == 1
    full = size(replace(deployment(), gpus=2, max_running=4), asked(15))
    assert full.queued and full.busy_groups == 2
    apart = replace(deployment("deepseek-r1", "H200", "fp8", dp=8, ep=8))
    assert size_apart(apart, asked(1)).output_tokens_per_s == pytest.approx(
        1e3 / size_apart(apart, asked(1)).tpot_ms)


def test_the_queue_says_what_it_is_for() -> None:
    places = size(replace(deployment(), max_running=4), asked(10)).as_json()
    assert places["queued"] and "max_running lets a group answer 4 at a time" in places["why"]


def test_prompts_and_answers_apart() -> None:
    """Readers keep up with answerers: the same requests pass through both."""
    where = deployment("deepseek-r1", "H200", "fp8", dp=8, ep=8)
    found = size_apart(where, asked(256, 4000, 500))
    through = found.readers_per_answerer * found.prompt_tokens_per_s / 4000
    assert through == pytest.approx(found.output_tokens_per_s / 500)
    assert found.tpot_ms < 1e3 * size(where, asked(256, 4000, 500)).tpot_seconds
    with pytest.raises(ValueError, match="has room for"):
        size_apart(where, asked(10**6))


def test_a_rate_is_as_many_clients_as_it_keeps_under_way() -> None:
    where = deployment("llama-3.1-70b", "H100", "fp8", "fp8", tp=2)
    answer = size_at_rate(where, asked(1, 5000, 500), 1.0)
    assert answer.state.requests_per_second == pytest.approx(1.0, rel=0.1)
    with pytest.raises(ValueError, match="the queue would grow for ever"):
        size_at_rate(where, asked(1, 5000, 500), 5.0)


def test_what_does_not_fit_says_by_how_much_and_what_would() -> None:
    where = deployment("qwen3-235b-a22b", "H20", tp=4)
    answer = size(where, asked())
    assert not answer.fits and answer.as_json()["tpot_ms"] is None
    assert "GB a GPU are missing" in shortage(where, asked())
    assert "tp=8" in shortage(where, asked()) and "precision=fp8" in shortage(where, asked())
    assert size(deployment("qwen3-235b-a22b", "H20", tp=8), asked()).fits
    assert size(deployment("qwen3-235b-a22b", "H20", "fp8", tp=4), asked()).fits


def test_both_models_on_eight_h20() -> None:
    """R1 in fp8 fits with little room for a cache, and not with attention copied to each GPU, but for a
    larger share of its memory. Qwen3-235B in bf16 fits well, and is bound by launches at batch 1."""
    together = size(deployment("deepseek-r1", "H20", "fp8", tp=8), asked(32))
    assert together.fits and together.as_json()["kv_tokens"] < 200_000
    apart = deployment("deepseek-r1", "H20", "fp8", dp=8, ep=8)
    assert not size(apart, asked(32)).fits
    more = size(replace(apart, utilization=0.99), asked(32))
    assert more.fits and more.state.parts.keys() != together.state.parts.keys()
    assert size(deployment("qwen3-235b-a22b", "H20", tp=8), asked(1)).state.bound == "launches"


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        replace(deployment("deepseek-r1", "H200", "fp8", tp=8), gpus=12)
    with pytest.raises(ValueError, match="come true"):
        replace(deployment(), drafts=1, accepted=2)
    with pytest.raises(ValueError, match="the context of llama-3.1-8b is 131,072"):
        size(deployment(), asked(1, 131_000, 100))
    with pytest.raises(ValueError, match="concurrency=1,000,000,000; at most 111,848 requests of 1,200"):
        size(deployment(), asked(10**9))
    with pytest.raises(ValueError, match="rate=nan; it must be a number above 0"):
        size_at_rate(deployment(), asked(), math.nan)
    with pytest.raises(ValueError, match="deepseek-r1 does not fit: .* GB a GPU are missing"):
        size_apart(deployment("deepseek-r1", "H20", tp=8), asked())
    with pytest.raises(ValueError, match="input_tokens=0"):
        ServingLoad(input_tokens=0, output_tokens=1)
    with pytest.raises(ValueError, match="shared_prefix=1000"):
        replace(asked(), shared_prefix=1000)


def test_the_command_prints_one_object(capsys: pytest.CaptureFixture) -> None:
    line = ("plan serve --model deepseek-r1 --gpu H200 --gpus 8 --tp 8 --precision fp8 --input 1024 "
            "--output 256 --concurrency 16 --price 2 --json")
    assert main(line.split()) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"ttft_ms", "tpot_ms", "output_tokens_per_s", "fits", "bound", "why", "kv_tokens"} <= set(found)
    assert found["fits"] and 15 < found["tpot_ms"] < 25
    assert sum(found["parts_ms"].values()) == pytest.approx(found["step_ms"])
    assert main("plan serve --model llama-3.1-8b --tp 4 --output 64".split()) == 0
    assert "each token" in capsys.readouterr().out
    assert main("plan serve --model llama-3.1-70b --tp 3".split()) == 1
    assert "tp=3 does not divide" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "said"), [
    ("--price nan", "--price nan; it must be a number above 0"),
    ("--rate 2 --sweep", "--rate and --sweep both say how many are under way"),
    ("--rate 2 --concurrency 3", "--concurrency and --rate both say"),
    ("--apart --price 2", "--apart does not answer --price"),
    ("--apart --sweep", "--apart does not answer --sweep"),
    ("--concurrency 0", "concurrency=0; it must be a whole number of at least 1"),
    ("--imbalance nan", "imbalance=nan"),
    ("--redundant-experts 8", "redundant_experts=8, but ep=1"),
    ("--two-batches", "two_batches, but dp=1 and ep=1"),
])
def test_nothing_that_is_asked_for_is_left_aside(words: str, said: str, capsys) -> None:
    assert main(["plan", "serve", *words.split()]) == 1
    out, error = capsys.readouterr()
    assert not out and error.count("\n") == 1 and said in error
