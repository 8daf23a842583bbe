"""A trace is drawn from published figures: they come out again, and so do its bytes."""

import statistics

import pytest

from aiinfra.bench.trace import read_trace
from aiinfra.engine.blocks import BlockPool
from aiinfra.engine.scheduler import Scheduler
from aiinfra.lab.source import DATA
from aiinfra.plan import traffic
from aiinfra.plan.simulate import simulate
from aiinfra.plan.traffic import TRACES, TrafficShape, as_lines, as_requests, at_rate, draw, published_lengths

HOURS = TrafficShape(seconds=20_000, per_second=1.0, day_seconds=20_000)


@pytest.fixture(scope="module")
def turns():
    return draw(HOURS)


@pytest.mark.parametrize("name", TRACES)
def test_the_committed_files_can_be_made_again(name, tmp_path) -> None:
    made = as_lines(draw(TRACES[name]))
    assert made == (DATA / "traces" / f"{name}.jsonl").read_text(encoding="utf-8")


def test_writing_them_all_says_what_was_written(tmp_path, capsys) -> None:
    traffic.write_all(tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == set(TRACES)
    assert "laptop.jsonl:" in capsys.readouterr().out


def test_another_seed_is_another_trace(turns) -> None:
    assert draw(TRACES["laptop"], seed=1) != draw(TRACES["laptop"])
    times = [turn.arrival_seconds for turn in turns]
    assert times == sorted(times) and 0 <= times[0] and times[-1] < HOURS.seconds


def test_lengths_rate_and_shared_tokens_are_the_published_ones(turns) -> None:
    begun = [turn for turn in turns if not turn.shared_tokens]
    lengths = published_lengths()
    assert {(turn.prompt_tokens, turn.output_tokens) for turn in begun} <= set(lengths)
    mean = statistics.mean(prompt for prompt, _ in lengths)
    assert statistics.mean(turn.prompt_tokens for turn in begun) == pytest.approx(mean, rel=0.05)
    assert len(turns) / HOURS.seconds == pytest.approx(1, rel=0.05)
    prompts = sum(turn.prompt_tokens for turn in turns)
    assert sum(turn.shared_tokens for turn in turns) / prompts == pytest.approx(0.563, abs=0.01)


@pytest.mark.parametrize("burst", (0.5, 1.0, 4.0))
def test_bursts(burst) -> None:
    """The standard deviation of gaps over their mean is burst ** -0.5: 1 for Poisson."""
    flat = draw(TrafficShape(seconds=20_000, per_second=0.5, peak=1, burst=burst, again=0))
    times = [turn.arrival_seconds for turn in flat]
    gaps = [after - before for before, after in zip(times, times[1:])]
    spread = statistics.stdev(gaps) / statistics.mean(gaps)
    assert spread == pytest.approx(burst ** -0.5, rel=0.08)


def test_the_peak_of_a_day() -> None:
    shape = TrafficShape(seconds=100 * 960, per_second=1.0, day_seconds=960, peak=1.8, burst=1, again=0)
    by_hour = [0] * 24
    for turn in draw(shape):
        by_hour[int(turn.arrival_seconds % 960 // 40)] += 1
    mean = sum(by_hour) / 24
    noon, midnight = sum(by_hour[11:13]) / 2, (by_hour[0] + by_hour[23]) / 2
    assert noon / mean == pytest.approx(1.8, rel=0.05) and midnight / mean == pytest.approx(0.2, abs=0.05)


def test_a_turn_begins_with_the_prompt_before_it(turns) -> None:
    last = {}
    for turn in turns:
        assert turn.shared_tokens == last.get(turn.conversation, 0) < turn.prompt_tokens
        assert turn.prompt_tokens + turn.output_tokens <= HOURS.context
        last[turn.conversation] = turn.prompt_tokens


@pytest.mark.parametrize("rate", (0.5, 40))
def test_a_stated_rate_is_the_rate_of_the_trace(rate) -> None:
    short = draw(TrafficShape(seconds=6, per_second=8))
    told = at_rate(short, rate)
    assert len(told) / told[-1].arrival_seconds == pytest.approx(rate)
    ratios = [new.arrival_seconds / old.arrival_seconds for new, old in zip(told, short)]
    assert ratios == pytest.approx([ratios[0]] * len(short))
    assert [turn.prompt_tokens for turn in told] == [turn.prompt_tokens for turn in short]


def test_a_rate_that_cannot_be_told_is_refused() -> None:
    with pytest.raises(ValueError, match="per_second=0, last arrival at 1.0 s"):
        at_rate([traffic.Turn(1.0, 0, 5, 5)], 0)
    with pytest.raises(ValueError, match="last arrival at 0.0 s; both must be above 0"):
        at_rate([], 3)


def test_a_prefix_cache_finds_what_was_shared_and_no_more() -> None:
    some = draw(TrafficShape(seconds=400, per_second=1.0, scale=1 / 8, context=1024))
    requests = as_requests(some)
    scheduler = Scheduler(BlockPool(100_000, 1), token_budget=1024)
    arrivals = [turn.arrival_seconds for turn in some]
    for _ in simulate(scheduler, requests, arrivals, cost=lambda plan: 1e-6):
        pass
    found = [request.cached_tokens for request in requests]
    assert found == [turn.shared_tokens for turn in some] and sum(found) > 1000


def test_the_benchmarks_read_such_a_file() -> None:
    path, turns = DATA / "traces" / "laptop.jsonl", draw(TRACES["laptop"])
    read = read_trace(path, vocab_size=49_152, context=1024)
    assert [len(request.prompt) for request in read] == [turn.prompt_tokens for turn in turns]
    before, shared = {}, 0
    for request, turn in zip(read, turns):
        earlier = before.get(turn.conversation, [])
        assert request.prompt[:turn.shared_tokens] == earlier
        before[turn.conversation] = request.prompt
        shared += bool(earlier)
    assert shared > 5 and len({tuple(prompt[:1]) for prompt in before.values()}) == len(before)


@pytest.mark.parametrize("wrong, message", [
    ({"seconds": 0}, "seconds=0; it must be above 0"),
    ({"per_second": float("nan")}, "per_second=nan"),
    ({"peak": 2.5}, "peak=2.5; a cosine that stays above 0"),
    ({"again": 1}, "again=1; it must be 0 or more, and below 1"),
])
def test_shapes_that_cannot_be_drawn(wrong, message) -> None:
    with pytest.raises(ValueError, match=message):
        TrafficShape(**{"seconds": 10, "per_second": 1, **wrong})
