"""Load on a server whose delays are known: percentiles, goodput, the knee, and what Ctrl-C leaves."""

import asyncio
import json
import math
import signal
import subprocess
import sys
import time

import pytest

from aiinfra.__main__ import main
from aiinfra.bench.arrivals import arrive, drawn_trace, lengths, shared_prefixes
from aiinfra.bench.http import Endpoint, HttpServed
from aiinfra.bench.measured import LoadRow, Measured
from aiinfra.bench.serve import Load, LoadTest, find_knee, knee_row
from aiinfra.bench.trace import TraceRequest
from aiinfra.bench.waits import token_seconds
from aiinfra.plan.latency import LatencyTarget
from tests.bench.fake_server import Fake, FakeTransport, run_virtually, served
from tests.source_tree import ROOT

SHORT = {"prompt_tokens": lengths("8"), "output_tokens": lengths("5"), "vocab_size": 1000}


@pytest.fixture
def virtual(monkeypatch) -> None:
    """Time is the loop's own: delays are exact, and nobody waits."""
    monkeypatch.setattr(asyncio, "run", run_virtually)


def load_test(fake: Fake, **load: object) -> LoadTest:
    return LoadTest(Endpoint("http://fake", transport=FakeTransport(fake)), Load(**SHORT | load))


def by_name(measured: list) -> dict[str, float]:
    return {row.name: row.ours for row in measured}


def heard(arrival: float, *at: float, **more: object) -> HttpServed:
    return HttpServed(arrival_seconds=arrival, at_seconds=list(at), sent_seconds=arrival, **more)


TARGET = LatencyTarget(ttft_seconds=1.0, tpot_seconds=0.1)


def run(rate: float, *answers: HttpServed, target: LatencyTarget = TARGET) -> Measured:
    return Measured(said=f"{rate}", rate=rate, asked=len(answers), heard=list(answers), target=target)


def test_percentiles_are_those_of_the_server(virtual) -> None:
    told = by_name(load_test(Fake(first=0.1, gap=0.02), rate=40.0, requests=30).rows())
    for q in (50, 90, 99):
        assert told[f"first token, P{q}"] == pytest.approx(0.1)
        assert told[f"next token, P{q}"] == told[f"mean time a token, P{q}"] == pytest.approx(0.02)
        assert told[f"whole answer, P{q}"] == pytest.approx(0.18)


def test_failed_requests_are_no_zeros(virtual) -> None:
    test = load_test(Fake(first=0.05, refuse=tuple(range(1, 13))), rate=100.0, requests=20)
    *waits, goodput = test.rows()
    [one] = test.runs
    assert min(row.ours for row in waits if "first" in row.name) == pytest.approx(0.05)
    assert one.in_time == pytest.approx(8 / 20) and not one.keeps_up and goodput.figures["failed"] == 12
    assert "8 of 20 requests answered; 12 failed: 429 the queue is full" in one.line().note


def test_nobody_answered() -> None:
    nobody = run(1.0, heard(0.0, failure="429 full"))
    assert [row.name for row in nobody.rows()] == ["output", "answers", "goodput"]
    assert nobody.in_time == 0 and nobody.line().ours == 0 and "1 failed" in nobody.line().note


def test_goodput_counts_who_was_in_time() -> None:
    measured = run(
        2.0,
        heard(0.0, 0.5, 0.55),                             # in time
        heard(0.0, 1.5, 1.55),                             # its first token is late
        heard(0.0, 0.5, 0.55, 2.0),                        # a token takes 0.75 s on average
        heard(1.0, 1.5),                                   # one token only
        heard(0.0, 0.1, hung_up=True),                     # not the server's doing
        heard(0.0, failure="429"),
    )
    assert measured.in_time == 2 / 5 and measured.seconds == 2.0
    assert measured.goodput == 1.0
    figures = measured.figures()
    assert figures["goodput_per_second"] == 1.0 and figures["failed"] == figures["hung_up"] == 1
    assert token_seconds(measured.heard[2]) == 0.75


def test_an_answer_of_one_token_is_no_quick_one() -> None:
    """It had no second token to wait for: three such do not make the median of a token's time 0."""
    measured = run(2.0, heard(0.0, 0.5, 0.6), *[heard(0.0, 0.5)] * 3)
    assert measured.figures()["per_token_p50"] == pytest.approx(0.1)
    assert "a token 0.100" in measured.line().note
    single = run(2.0, heard(0.0, 0.5))
    assert "per_token_p50" not in single.figures() and ", a token" not in single.line().note


def test_late_sending_is_told() -> None:
    late = HttpServed(arrival_seconds=1.0, at_seconds=[2.0], sent_seconds=1.5)
    assert "P99 sent 0.500 s late" in run(1.0, late).line().note


@pytest.mark.parametrize("knee", [0.3, 1.0, 3.0, 50.0, 1000.0])
def test_the_knee_is_closed_in_on(knee: float) -> None:
    """A server that keeps up with `knee` requests a second, and no more."""
    def serve(rate: float) -> Measured:
        return run(rate, heard(0.0, 0.5 if rate <= knee else 5.0))
    runs = list(find_knee(serve, 1.0))
    found = knee_row(runs).ours
    assert found <= knee < found * 2 ** (1 / 4), f"{found} after {[one.rate for one in runs]}"


def test_a_knee_that_is_not_reached() -> None:
    def good(rate: float) -> Measured:
        return run(rate, heard(0.0, 0.5))
    assert "or above" in knee_row(list(find_knee(good, 1.0))).note

    def bad(rate: float) -> Measured:
        return run(rate, heard(0.0, 5.0))
    row = knee_row(list(find_knee(bad, 1.0)))
    assert row.ours is None and "no rate was kept up with" in row.note


def test_a_knee_measured(virtual) -> None:
    """One place, 20 ms a request: more than 50 a second are not to be served in time."""
    test = load_test(Fake(first=0.02, places=1), arrivals="constant", rate=10.0,
                     target=LatencyTarget(ttft_seconds=0.15, tpot_seconds=1.0),
                     output_tokens=lengths("1"), vocab_size=32_000)
    *rates, knee = test.sweep()
    assert knee.name == "knee" and 45 < knee.ours <= 55
    assert rates[0].ours == 100 and rates[0].figures["asked"] == 200
    chosen = test.sweep([10.0, 25.0, 200.0])
    assert [row.name for row in chosen] == ["10 requests/s", "25 requests/s", "200 requests/s", "knee"]


def test_each_run_has_prompts_of_its_own(virtual) -> None:
    fake = Fake()
    list(load_test(fake, requests=5).sweep([100.0, 200.0]))
    asked = [tuple(body["prompt"]) for body in fake.bodies[1:]]
    assert len(set(asked)) == 10, "none twice: a prefix cache would have known it"


def test_users_have_no_rate(virtual) -> None:
    [*_, goodput] = load_test(Fake(first=0.05), users=4, requests=20).rows()
    assert goodput.ours == pytest.approx(80) and "offered_per_second" not in goodput.figures


def test_arrivals() -> None:
    trace = [TraceRequest([1], 1, at) for at in (0.0, 1.0, 3.0, 8.0)]
    assert [one.arrival_seconds for one in arrive(trace, "constant", 2.0)] == [0.0, 0.5, 1.0, 1.5]
    assert [one.arrival_seconds for one in arrive(trace, "trace", None)] == [0.0, 1.0, 3.0, 8.0]
    assert [one.arrival_seconds for one in arrive(trace, "trace", 1.0)] == [0.0, 0.5, 1.5, 4.0]
    assert {one.arrival_seconds for one in arrive(trace, "poisson", math.inf)} == {0.0}
    many = arrive(trace * 1000, "poisson", 5.0, seed=1)
    assert many[-1].arrival_seconds == pytest.approx(800, rel=0.1)
    with pytest.raises(ValueError, match="no arrival_seconds to stretch"):
        arrive([TraceRequest([1], 1)], "trace", 1.0)
    for rate in (0.0, -1.0, math.nan, None):
        with pytest.raises(ValueError, match="it must be above 0"):
            arrive(trace, "constant", rate)


def test_lengths_and_prefixes() -> None:
    trace = drawn_trace(50, 1000, 0, lengths("lognormal:20:0.5:60"), lengths("3:9"))
    assert all(1 <= len(one.prompt) <= 60 and 3 <= one.output_tokens <= 9 for one in trace)
    assert len({one.prompt[0] for one in trace}) == 50
    shared = shared_prefixes(trace, 4, 16, 1000)
    assert len({tuple(one.prompt[:16]) for one in shared}) == 4
    assert [one.prompt[16:] for one in shared] == [one.prompt for one in trace]
    for text in ("0", "a", "5:3", "lognormal:3", "lognormal:9:nan:20", ""):
        with pytest.raises(ValueError, match="is no length: write 128, 16:256"):
            lengths(text)


@pytest.mark.parametrize("wrong, why", [
    ({"arrivals": "trace"}, "name its file"), ({"arrivals": "burst"}, "must be one of poisson"),
    ({"users": 0}, "at least 1"), ({"requests": 0}, "at least 1"),
    ({"users": 2, "hang_up": 0.5}, "do not hang"),
])
def test_loads_that_are_none(wrong: dict, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Load(**wrong)


def test_from_the_command_line(tmp_path, capsys) -> None:
    saved, picture = tmp_path / "rows.json", tmp_path / "out.png"
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"prompt_tokens": 4, "output_tokens": 3, "arrival_seconds": 0.1}\n' * 5)
    with served(Fake(first=0.01, key="k")) as url:
        line = ["bench", "serve", "--url", url, "--api-key", "k", "--arrivals", "trace",
                "--trace", str(trace), "--save", str(saved), "--plot", str(picture), "--hang-up", "0"]
        assert main(line) == 0
        assert main(["bench", "serve", "--url", url, "--api-key", "wrong"]) == 1
    told = json.loads(saved.read_text())
    assert told["settings"]["trace"] == "trace.jsonl" and "k" not in told["settings"].values()
    assert told["rows"][-1]["figures"]["answered"] == 5
    assert picture.read_bytes()[:4] == b"\x89PNG"
    shown = capsys.readouterr()
    assert "5 of 5 requests answered" in shown.out and "401 wrong key" in shown.err


def test_a_first_request_tells_what_is_wrong(capsys) -> None:
    with served(Fake(refuse=(0,))) as url:
        assert main(["bench", "serve", "--url", url]) == 1
    assert "does not serve a first, short request: 429 the queue is full" in capsys.readouterr().err


def test_a_sweep_is_drawn(tmp_path) -> None:
    picture = tmp_path / "out.svg"
    with served(Fake(first=0.01, places=1)) as url:
        assert main(["bench", "serve", "--url", url, "--sweep", "20", "400", "--requests", "30",
                     "--output", "1", "--ttft-target", "0.1", "--plot", str(picture)]) == 0
    assert "<svg" in picture.read_text()


@pytest.mark.program
def test_ctrl_c_prints_what_it_has(tmp_path) -> None:
    saved = tmp_path / "rows.json"
    fake = Fake(first=0.01)
    with served(fake) as url:
        command = [sys.executable, "-m", "aiinfra", "bench", "serve", "--url", url, "--rate", "5",
                   "--requests", "1000", "--save", str(saved)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, cwd=ROOT, **pipes)
        while len(fake.bodies) < 6 and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "first token, P50" in out and "not heard to their end" in out
    assert "Traceback" not in err
    assert json.loads(saved.read_text())["rows"][-1]["figures"]["answered"] >= 4
