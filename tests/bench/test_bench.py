"""A benchmark can lie in many ways: other work, another clock, a prefix shared by accident. Each is a test here."""

import json
import random
import re
import threading
import time
from types import SimpleNamespace

import pytest
import torch
import transformers

from aiinfra.__main__ import main, parser
from aiinfra.bench import decode as bench, throughput as bench_serving, steps as bench_steps
from aiinfra.bench.decode import Row, Side, digits
from aiinfra.bench.steps import EngineServer
from aiinfra.engine.engine import Engine
from aiinfra.bench.peers import GenerateBatch, LlamaCpp, StaticBatches, transformers_generate
from aiinfra.engine.runner import PagedCache
from aiinfra.bench.load import Token, TraceRequest, random_trace, replay
from aiinfra.model import Transformer
from aiinfra.checkpoint.hub import resolve
from aiinfra.checkpoint.fill import fill
from aiinfra.checkpoint.huggingface import HuggingFaceFolder
from aiinfra.compress.packed import PlacePacked


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
    fill(ours, source, PlacePacked(ours))
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


# Replays

def test_our_engine_finds_nothing_in_its_prefix_cache(model: Transformer) -> None:
    server = EngineServer(Engine(model, block_size=1))
    replay(server, TRACE)
    assert tokens_run(server) == sum(len(r.prompt) + r.output_tokens - 1 for r in TRACE)


def tokens_run(server: EngineServer) -> int:
    return sum(count for record in server.records for *_, count in record.ran)


class Clerk:
    """A server that takes `seconds` a token, one request after another; `extra` tokens more than asked for."""

    def __init__(self, seconds: float = 0.01, extra: int = 0, name: str = "clerk") -> None:
        self.seconds, self.extra, self.name = seconds, extra, name
        self.queue, self.came = [], []

    @property
    def unfinished(self) -> int:
        return len(self.queue)

    def add(self, request: int, prompt: list[int], output_tokens: int) -> None:
        self.queue.append([request, output_tokens + self.extra])
        self.came.append(request)

    def step(self) -> list[Token]:
        time.sleep(self.seconds)
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


def test_a_busy_server_is_not_excused() -> None:
    """Who comes in the middle of a step has waited since then, not only since the step's end."""
    _, late = replay(Clerk(seconds=0.1), [TraceRequest([1], 1), TraceRequest([1], 1, 0.05)])
    assert late.arrival_seconds == 0.05 and late.first_token_seconds > 0.14, "50 ms until the server looks, 100 ms of work"


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


@pytest.mark.parametrize("seconds", [(0.0, 0.002), (0.002, 0.0)])
def test_the_best_peer_counts(seconds: tuple[float, float], small, monkeypatch) -> None:
    monkeypatch.setattr(bench_serving, "_transformers", lambda *_: [
        lambda s=s: Clerk(s, name=f"takes {s} s") for s in seconds])
    best, _ = bench_serving.bench_throughput("small", requests=2)
    assert best.peer_name == "takes 0.0 s"


def test_every_turn_has_a_fresh_engine(small, monkeypatch) -> None:
    """Else its prefix cache would win the second turn."""
    servers = []

    class Seen(EngineServer):
        def __init__(self, engine: Engine) -> None:
            super().__init__(engine)
            servers.append(self)
    monkeypatch.setattr(bench_serving, "EngineServer", Seen)
    monkeypatch.setattr(bench_serving, "_transformers", lambda *_: [])
    list(bench_serving.bench_throughput("small", requests=3, turns=2))
    warm, first, second = servers
    todo = random_trace(3, 211)
    assert tokens_run(warm) == sum(len(r.prompt) + 1 for r in todo[:2])
    assert tokens_run(first) == tokens_run(second) == sum(len(r.prompt) + r.output_tokens - 1 for r in todo)


def test_throughput_has_all_there_at_second_0(small, tmp_path, monkeypatch) -> None:
    file, replayed = tmp_path / "trace.jsonl", []
    file.write_text('{"prompt_tokens": 4095, "output_tokens": 1, "arrival_seconds": 0.5}\n')        # and no room for a second token
    monkeypatch.setattr(bench_serving, "replay", lambda server, trace: replayed.append(trace) or replay(server, trace))
    monkeypatch.setattr(bench_serving, "_transformers", lambda *_: [])
    list(bench_serving.bench_throughput("small", file))
    assert [(r.arrival_seconds, r.output_tokens) for trace in replayed for r in trace] == [(0.0, 1)] * 2, "the warm-up, and a turn"


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


@pytest.mark.parametrize("setting, reason", [
    ({"mode": "static"}, "9 requests do not run side by side with mode=static"), ({"mode": "one"}, "with mode=one, max_running=1"),
    ({"max_running": 8}, "9 requests .* max_running=8 .* Use mode=continuous, max_running=9"), ({"max_running": 4}, "max_running=4"),
    ({"cache_bytes": 128 * 16 * 256}, "128 blocks of cache"), ({"max_model_len": 1024}, "the context is 1,024"),
    ({"chunked": False}, "prompts are not chunked")])
def test_a_long_prompt_that_nobody_can_stand_beside(setting: dict, reason: str, model: Transformer) -> None:
    assert PagedCache.block_bytes(model.config, 16, torch.float32) == 16 * 256
    [row] = bench_steps.bench_long_prompt(model, **setting)
    assert row.ours is None and re.search(f"^not measured: .*{reason}", row.note) and " –  s " in re.sub(" +", "  ", str(row))


def test_a_static_batch_has_its_latency(small, monkeypatch) -> None:
    monkeypatch.setattr(bench_serving, "_transformers", lambda *_: [])
    *waits, long_prompt = bench_serving.bench_latency("small", requests=3, rate=100.0, mode="static")
    assert len(waits) == 9 and all(row.ours > 0 for row in waits) and long_prompt.ours is None


@pytest.mark.parametrize("setting", [{"max_model_len": 2048}, {"speculative": "prompt_lookup"}, {"overlap": True}, {"token_budget": 40}])
def test_a_long_prompt_with_other_settings(setting: dict, model: Transformer) -> None:
    assert all(row.ours > 0 for row in bench_steps.bench_long_prompt(model, **setting))


def test_bystanders_last_until_a_slow_prompt_is_read(model: Transformer, monkeypatch) -> None:
    monkeypatch.setattr(bench_steps, "LONG_PROMPT", 100)
    gap, _ = bench_steps.bench_long_prompt(model, token_budget=9, max_running=9, chunk_tokens=1)
    assert "read in 100 steps" in gap.note


def test_the_percentile_of_the_long_prompt_is_the_99th(model: Transformer, monkeypatch) -> None:
    gaps = iter(([0.01] * 50 + [0.5, 0.5], [0.25]))
    monkeypatch.setattr(bench_steps, "_gaps_during_a_long_prompt", lambda *_: next(gaps))
    gap, prompt = bench_steps.bench_long_prompt(model)
    assert (gap.ours, gap.peer) == (0.5, 0.25) and (prompt.ours, prompt.peer) == (pytest.approx(1.5), 0.25)


@pytest.mark.parametrize("setting", [{"max_running": 8}, {"mode": "one"}, {"cache_bytes": 60 * 16 * 256}])
def test_a_batch_that_does_not_run_is_not_measured(setting: dict, model: Transformer) -> None:
    engine = Engine(model, **setting)
    with pytest.raises(ValueError, match="10 requests do not run side by side with mode=.*, max_running=.* blocks of cache. Use"):
        bench_steps.decoding(engine, 10, 128, 40, random.Random(0))
    assert engine.unfinished == 10 or "cache_bytes" in setting, "where places are short, nobody was served to the end first"


def test_guesses_that_come_true_end_no_bystander(model: Transformer) -> None:
    engine = Engine(model, speculative="prompt_lookup")
    bench_steps.decoding(engine, 1, 8, 10, random.Random(0))
    assert engine.scheduler.running[0].max_tokens == 10 * (1 + engine.proposer.k)


def test_each_part_of_a_step_is_called_by_its_name(model: Transformer, monkeypatch) -> None:
    def slower(owner: object, name: str, milliseconds: int) -> None:
        work = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **options: time.sleep(milliseconds / 1e3) or work(*args, **options))
    engine = Engine(model)
    slower(engine.scheduler, "plan", 10)
    slower(engine.runner, "_step_kv", 20)
    slower(model.lm_head, "forward", 40)
    slower(engine, "_draw", 80)
    monkeypatch.setattr(bench_steps, "STEPS", 3)
    parts = bench_steps._split_steps(engine, 1, 0)
    for name, seconds in {"plan": 0.01, "inputs": 0.02, "model": 0.04, "sampling": 0.08}.items():
        assert parts[name] >= seconds, name


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
    with pytest.raises(ValueError, match="line 1 has 4,090 tokens in and 7 out; the model's context is 4,096"):
        next(bench_serving.bench_throughput("small", file))


# One request

def test_turns_refuse_sides_that_differ() -> None:
    def side(token: int, exact: bool, made: int = bench.NEW_TOKENS + 1) -> Side:
        return Side("x", lambda prompt: [token] * made, lambda prompt: [token], exact)
    bench.take_turns([side(1, True), side(1, True), side(2, False)], [1] * 512, 2)
    for wrong in (side(2, True), side(1, False, made=3)):
        with pytest.raises(RuntimeError, match="returned different tokens"):
            bench.take_turns([side(1, True), wrong], [1] * 512, 1)


def test_decode(model: Transformer, folder, monkeypatch) -> None:
    """Both of ours and transformers make the same tokens; through the engine no prompt is known from a turn before."""
    ran, step = [], Engine.step
    monkeypatch.setattr(Engine, "step", lambda engine: ran.append(step(engine)) or ran[-1])
    monkeypatch.setattr(bench, "resolve", lambda name: folder)
    monkeypatch.setattr(bench, "load", lambda path, quantize=None: (model, SimpleNamespace(encode=lambda text: [5, 7, 11])))
    monkeypatch.setattr(bench, "read_bandwidth", lambda device: 1e9)
    rows = list(bench.bench_decode("small", turns=2))
    assert [row.name[:27] for row in rows] == [
        "C1 decode, 1 request", "   the same through the engine"[:27], "   share of read bandwidth", "C2 decode, 1 request, int4", "C5 prefill, 512 tokens"]
    assert rows[1].peer == rows[0].ours and rows[1].peer_name == "dense cache" and rows[1].ours != rows[0].ours
    whole = bench.PROMPT_TOKENS + bench.NEW_TOKENS
    assert sum(count for record in ran for *_, count in record.ran) == whole + 512 + 2 * (whole + bench.PROMPT_TOKENS + 512)


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
