"""A benchmark can lie in many ways: other work, another clock, a prefix shared by accident. Each is a test here."""

import json
import math
import threading
import time

import pytest
import torch
import transformers

from aiinfra.__main__ import main, parser
from aiinfra.engine import bench, bench_serving, bench_steps
from aiinfra.engine.bench import Row, Side, digits
from aiinfra.engine.bench_steps import EngineServer
from aiinfra.engine.engine import Engine
from aiinfra.engine.peers import GenerateBatch, LlamaCpp, StaticBatches, transformers_generate
from aiinfra.engine.trace import Token, TraceRequest, poisson_arrivals, random_trace, read_trace, replay
from aiinfra.model import Transformer
from aiinfra.model.hub import resolve
from aiinfra.model.weights import HuggingFaceFolder, fill


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small random Llama, as transformers writes it (no tokenizer: benchmarks send ids)."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=211, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=6,
                                      num_key_value_heads=2, max_position_embeddings=4096)
    model = transformers.LlamaForCausalLM(config).float()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.25)               # sharp logits: no near-ties
    path = tmp_path_factory.mktemp("llama")
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder) -> Transformer:
    source = HuggingFaceFolder(folder)
    with torch.device("meta"):
        ours = Transformer(source.config)
    ours.rotary.to("cpu")
    fill(ours, source, torch.float32, torch.device("cpu"), True)
    return ours.eval()


@pytest.fixture(scope="module")
def peer(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


TRACE = random_trace(9, 211, seed=1, prompt_tokens=(3, 40), output_tokens=(2, 12))


# Rows

@pytest.mark.parametrize("value, text", [(1.0857, "1.09"), (54.321, "54.3"), (157.26, "157"), (1234.5, "1,234"), (0.05123, "0.0512"),
                                         (0, "0"), (9.999, "10.00"), (float("inf"), "inf")])
def test_three_significant_digits(value: float, text: str) -> None:
    assert digits(value) == text


def test_a_ratio_above_one_is_better_for_rates_and_for_times() -> None:
    assert Row("speed", 30.0, "tok/s", 10.0, "them").ratio == 3
    assert Row("wait", 2.0, "s", 6.0, "them").ratio == 3
    assert Row("alone", 1.0857, "").ratio is None and "1.09" in str(Row("alone", 1.0857, ""))
    assert "× 3.00" in str(Row("speed", 30.0, "tok/s", 10.0, "them"))


# Traces

def test_a_random_trace_shares_no_prefix_and_can_be_had_again() -> None:
    trace = random_trace(64, 49_152)
    assert trace == random_trace(64, 49_152) != random_trace(64, 49_152, seed=1)
    assert len({request.prompt[0] for request in trace}) == 64
    assert all(16 <= len(r.prompt) <= 256 and 16 <= r.output_tokens <= 128 and r.arrival_seconds == 0 for r in trace)


def test_our_engine_finds_nothing_in_its_prefix_cache(model: Transformer) -> None:
    server = EngineServer(Engine(model, block_size=1))
    replay(server, TRACE)
    run = sum(count for record in server.records for *_, count in record.ran)
    assert run == sum(len(r.prompt) + r.output_tokens - 1 for r in TRACE)


def test_arrivals_are_poisson() -> None:
    trace = poisson_arrivals(random_trace(200, 211), 4.0, seed=3)
    times = [request.arrival_seconds for request in trace]
    assert times == sorted(times) and 200 / times[-1] == pytest.approx(4, rel=0.2)
    gaps = [b - a for a, b in zip(times, times[1:])]
    assert sum(gap < 0.25 for gap in gaps) / len(gaps) == pytest.approx(1 - math.exp(-1), abs=0.08)
    with pytest.raises(ValueError, match="0 requests a second"):
        poisson_arrivals(trace, 0)


def test_a_trace_file(tmp_path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text('{"prompt": [5, 6, 7], "output_tokens": 4}\n\n{"prompt_tokens": 30, "output_tokens": 2, "arrival_seconds": 0.5}\n')
    first, second = read_trace(file, 211)
    assert first == TraceRequest([5, 6, 7], 4) and len(second.prompt) == 30 and second.arrival_seconds == 0.5
    assert read_trace(file, 211) == [first, second]


@pytest.mark.parametrize("line, message", [
    ("{", "is not JSON"), ("[1]", "is not an object"), ('{"prompt_tokens": 3, "output_token": 4}', "Did you mean 'output_tokens'"),
    ('{"output_tokens": 4}', "either prompt .* or prompt_tokens"), ('{"prompt": [1], "prompt_tokens": 1, "output_tokens": 4}', "either prompt"),
    ('{"prompt_tokens": 0, "output_tokens": 4}', "prompt_tokens is 0"), ('{"prompt_tokens": 3}', "needs output_tokens"),
    ('{"prompt_tokens": 3, "output_tokens": 4, "arrival_seconds": -1}', "arrival_seconds .* at least 0"),
    *((f'{{"prompt": {prompt}, "output_tokens": 4}}', "must be a list of token ids, at least one, each from 0 to 210") for prompt in (
        '"Hello"', "[1, 211]", "[]", "[1.5]")),
])
def test_a_wrong_line_is_named(line: str, message: str, tmp_path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text('{"prompt_tokens": 3, "output_tokens": 4}\n' + line + "\n")
    with pytest.raises(ValueError, match=f"line 2.*{message}"):
        read_trace(file, 211)


def test_an_empty_trace(tmp_path) -> None:
    (tmp_path / "none").write_text("\n")
    with pytest.raises(ValueError, match="has no requests"):
        read_trace(tmp_path / "none", 211)
    with pytest.raises(ValueError, match="0 requests"):
        random_trace(0, 211)


# Replays

class Clerk:
    """A server that takes 10 ms a token, one request after another; `extra` tokens more than asked for."""

    name = "clerk"

    def __init__(self, extra: int = 0) -> None:
        self.queue, self.extra, self.came = [], extra, []

    @property
    def unfinished(self) -> int:
        return len(self.queue)

    def add(self, request: int, prompt: list[int], output_tokens: int) -> None:
        self.queue.append([request, output_tokens + self.extra])
        self.came.append(request)

    def step(self) -> list[Token]:
        time.sleep(0.01)
        request, left = self.queue[0]
        self.queue[0][1] -= 1
        if left == 1:
            self.queue.pop(0)
        return [Token(request, 7, time.perf_counter())]


def test_waiting_counts_from_the_arrival() -> None:
    clerk = Clerk()
    answers = replay(clerk, [TraceRequest([1], 5, 0.05), TraceRequest([1], 20, 0.0), TraceRequest([1], 2, 0.4)])
    assert clerk.came == [1, 0, 2], "in order of arrival, not of the file"
    assert [len(a.tokens) for a in answers] == [5, 20, 2] and len(answers[1].gaps_seconds) == 19
    assert answers[1].first_token_seconds >= 0.01 and min(answers[1].gaps_seconds) >= 0.01
    assert answers[0].first_token_seconds >= 0.15, "it waited until the other was served"
    assert answers[2].at_seconds[0] >= 0.4, "nobody is served before it comes"
    assert all(a.total_seconds == pytest.approx(a.first_token_seconds + sum(a.gaps_seconds)) for a in answers)


def test_other_work_is_refused() -> None:
    with pytest.raises(RuntimeError, match="clerk made 3 tokens for request 0, which asked for 2"):
        replay(Clerk(extra=1), [TraceRequest([1], 2)])


def test_all_servers_do_the_same_work(model: Transformer, peer) -> None:
    """Padding and the longest neighbour change nothing that counts: every server makes transformers' own tokens."""
    alone = [transformers_generate(peer, r.prompt, r.output_tokens) for r in TRACE]
    for server in (StaticBatches(peer, "transformers", 4), EngineServer(Engine(model, max_running=4))):
        answers = replay(server, TRACE)
        assert [a.tokens for a in answers] == alone and server.unfinished == 0
        assert all(a.at_seconds == sorted(a.at_seconds) and a.at_seconds[0] > 0 for a in answers)


def test_generate_batch_leaves_nothing_running(peer) -> None:
    """It makes transformers' own tokens, again and again; its thread ends with each step, and its kind of attention."""
    alone, kind = [transformers_generate(peer, r.prompt, r.output_tokens) for r in TRACE], peer.config._attn_implementation
    server, before = GenerateBatch(peer, "transformers"), threading.active_count()
    for _ in range(2):
        answers = replay(server, TRACE)
        assert [a.tokens for a in answers] == alone and server.unfinished == 0
        assert all(a.at_seconds == sorted(a.at_seconds) and a.at_seconds[0] > 0 for a in answers)
    assert threading.active_count() == before and peer.config._attn_implementation == kind
    server.close()


def test_llama_cpp_speaks_as_through_its_own_interface() -> None:
    api = pytest.importorskip("llama_cpp", reason="llama.cpp is optional")
    path, sentence = resolve("smollm2-135m"), b"The sea was calm that morning, and the harbour"
    # flash_attn: what llama.cpp itself decides here; the package's own default is without
    high = api.Llama(str(path), n_ctx=256, n_threads=torch.get_num_threads(), verbose=False, flash_attn=True)
    prompt, expected = high.tokenize(sentence, add_bos=False), []
    for token in high.generate(prompt, temp=0.0, repeat_penalty=1.0):
        expected.append(token)
        if len(expected) == 24:
            break
    server = LlamaCpp(api, path, sequences=2, context_tokens=128)
    assert server.generate(prompt, 24) == expected
    answers = replay(server, [TraceRequest(prompt, 24), *random_trace(4, 211, prompt_tokens=(1, 60), output_tokens=(1, 9))])
    assert answers[0].tokens[0] == expected[0] and server.unfinished == 0
    server.close()


# Rows of each command, on the small model

@pytest.fixture
def small(model: Transformer, folder, monkeypatch) -> None:
    monkeypatch.setattr(bench_serving, "resolve", lambda name: folder)
    monkeypatch.setattr(bench_serving, "load", lambda path: (model, None))
    monkeypatch.setattr(bench_steps, "load", lambda path: (model, None))


def test_throughput(small, tmp_path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text("".join(json.dumps({"prompt": r.prompt, "output_tokens": r.output_tokens}) + "\n" for r in TRACE))
    best, share = bench_serving.bench_throughput("small", file, turns=2)
    assert best.unit == "tok/s" and best.ratio == best.ours / best.peer and f"transformers {transformers.__version__}" in best.peer_name
    wanted = sum(r.output_tokens for r in TRACE)
    assert best.note == f"9 requests, {sum(len(r.prompt) for r in TRACE)} tokens in, {wanted} out; 9 answers equal"
    assert 0 < share.ours < 100


def test_latency(small) -> None:
    rows = list(bench_serving.bench_latency("small", requests=6, rate=50.0, token_budget=64))
    names = [row.name for row in rows]
    assert names[:9] == [f"{wait}, P{q}" for wait in ("first token", "next token", "whole answer") for q in (50, 90, 99)]
    assert all(row.unit == "s" and row.peer > 0 for row in rows)
    first, next_, whole = (rows[i].ours for i in (0, 3, 6))
    assert first + next_ < whole


def test_a_long_prompt_in_chunks(model: Transformer) -> None:
    gap, prompt = bench_steps.bench_long_prompt(model, chunk_tokens=100)
    assert "are read in 20 steps, or in 1" in gap.note
    assert gap.ratio == gap.peer / gap.ours and prompt.ours > 0


def test_engine(small, monkeypatch) -> None:
    monkeypatch.setattr(bench_steps, "STEPS", 4)
    rows = {row.name: row for row in bench_steps.bench_engine("small")}
    assert len(rows) == 15
    for batch in (1, 8, 32):
        parts = [rows[f"batch {batch}: {part}"].ours for part in ("plan", "inputs", "model", "sampling")]
        assert min(parts) > 0
        outside = rows["C6 outside the model, batch 32" if batch == 32 else f"   outside the model, batch {batch}"].ours
        assert outside == pytest.approx(100 * (1 - parts[2] / sum(parts)))


def test_the_clock_is_taken_away_again(model: Transformer) -> None:
    with bench_steps._clock(model) as seconds:
        replay(EngineServer(Engine(model)), [TraceRequest([1, 2], 3)])
    assert len(seconds) == 6, "3 steps, each of hidden and lm_head"
    assert "hidden" not in vars(model) and not model.lm_head._forward_hooks and not model.lm_head._forward_pre_hooks


def test_a_request_longer_than_the_context(small, tmp_path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text('{"prompt_tokens": 4090, "output_tokens": 7}\n')
    with pytest.raises(ValueError, match="request 0 of the trace has 4,090 tokens in and 7 out; the model's context is 4,096"):
        next(bench_serving.bench_throughput("small", file))


# One request

def test_turns_refuse_sides_that_differ() -> None:
    def side(token: int, exact: bool, made: int = bench.NEW_TOKENS + 1) -> Side:
        return Side("x", lambda prompt: [token] * made, lambda prompt: [token], exact)
    bench.take_turns([side(1, True), side(1, True), side(2, False)], [1] * 512, 2)
    for wrong in (side(2, True), side(1, False, made=3)):
        with pytest.raises(RuntimeError, match="returned different tokens"):
            bench.take_turns([side(1, True), wrong], [1] * 512, 1)


def test_rates_leave_the_first_token_out() -> None:
    one = Side("x", None, None, True, {"decode": [2.5, 2.6, 2.5], "short": [0.5, 0.5, 9.0], "long": [4.0]})
    assert one.decode_rate == 64 / 2.0 and one.prefill_rate == 512 / 4


# The command line

def test_options_of_the_engine_from_the_command_line(capsys) -> None:
    args = parser().parse_args(["bench", "latency", "--set", "mode=static", "--set", "chunk_tokens=64", "--set", "chunked=False", "--rate", "2"])
    assert dict(args.set) == {"mode": "static", "chunk_tokens": 64, "chunked": False} and args.rate == 2.0
    with pytest.raises(SystemExit):
        parser().parse_args(["bench", "engine", "--set", "chunk_token=64"])
    assert "Did you mean 'chunk_tokens'?" in capsys.readouterr().err


def test_saved_with_its_settings(small, tmp_path, capsys) -> None:
    file, out = tmp_path / "trace.jsonl", tmp_path / "out.json"
    file.write_text('{"prompt_tokens": 9, "output_tokens": 3}\n')
    assert main(["bench", "throughput", "--trace", str(file), "--set", "max_running=4", "--save", str(out)]) == 0
    saved = json.loads(out.read_text())
    assert saved["settings"]["trace"] == "trace.jsonl" and saved["settings"]["max_running"] == 4 and len(saved["rows"]) == 2
    assert "C3 mixed trace" in capsys.readouterr().out


def test_what_was_measured_is_kept_when_a_later_row_fails(small, tmp_path, monkeypatch) -> None:
    def rows(name: str, **options: object):
        yield Row("first", 1.0, "s")
        raise KeyboardInterrupt
    monkeypatch.setattr(bench_serving, "bench_throughput", rows)
    assert main(["bench", "throughput", "--save", str(tmp_path / "out.json")]) == 130
    assert [row["name"] for row in json.loads((tmp_path / "out.json").read_text())["rows"]] == ["first"]
