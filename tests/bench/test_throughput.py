"""A trace, all there at second 0: the same work for all, a fresh engine every turn, the best peer counts."""

import json
import weakref

import pytest
import transformers
from tests.bench.servers import TRACE, Clerk, tokens_run

from aiinfra.bench import throughput
from aiinfra.bench.load import EngineServer, Served, Server, replay
from aiinfra.bench.trace import TraceRequest, random_trace
from aiinfra.engine.engine import Engine
from aiinfra.gpu.replaced import replaced


def test_throughput(small, tmp_path) -> None:
    file = tmp_path / "trace.jsonl"
    lines = [json.dumps({"prompt": r.prompt, "output_tokens": r.output_tokens}) for r in TRACE]
    file.write_text("\n".join(lines) + "\n")
    best, share = throughput.bench_throughput("small", file, turns=2)
    assert best.unit == "tok/s" and best.ratio == best.ours / best.peer
    assert f"transformers {transformers.__version__}" in best.peer_name
    wanted = sum(r.output_tokens for r in TRACE)
    prompts = sum(len(r.prompt) for r in TRACE)
    assert best.note == f"9 requests, {prompts} tokens in, {wanted} out; 9 answers equal"
    assert 0 < share.ours < 100


@pytest.mark.parametrize("seconds", [(0.0, 0.002), (0.002, 0.0)])
def test_the_best_peer_counts(seconds: tuple[float, float], small, monkeypatch) -> None:
    monkeypatch.setattr(throughput, "static_servers", lambda *_: [
        lambda s=s: Clerk(s, name=f"takes {s} s") for s in seconds])
    best, _ = throughput.bench_throughput("small", requests=2)
    assert best.peer_name == "takes 0.0 s"


def test_every_turn_has_a_fresh_engine(small, monkeypatch) -> None:
    """Else its prefix cache would win the second turn."""
    servers = []

    class Seen(EngineServer):
        def __init__(self, engine: Engine) -> None:
            super().__init__(engine)
            servers.append(self)
    monkeypatch.setattr(throughput, "EngineServer", Seen)
    monkeypatch.setattr(throughput, "static_servers", lambda *_: [])
    list(throughput.bench_throughput("small", requests=3, turns=2))
    warm, first, second = servers
    todo = random_trace(3, 211)
    assert tokens_run(warm) == sum(len(r.prompt) + 1 for r in todo[:2])
    assert tokens_run(first) == tokens_run(second) == sum(len(r.prompt) + r.output_tokens - 1 for r in todo)


def test_throughput_has_all_there_at_second_0(small, tmp_path, monkeypatch) -> None:
    file, replayed = tmp_path / "trace.jsonl", []
    no_room_for_a_second = '{"prompt_tokens": 4095, "output_tokens": 1, "arrival_seconds": 0.5}'
    file.write_text(no_room_for_a_second + "\n")

    def seen(server: Server, trace: list[TraceRequest]) -> list[Served]:
        replayed.append(trace)
        return replay(server, trace)
    monkeypatch.setattr(throughput, "replay", seen)
    monkeypatch.setattr(throughput, "static_servers", lambda *_: [])
    list(throughput.bench_throughput("small", file))
    assert [(r.arrival_seconds, r.output_tokens) for trace in replayed for r in trace] == [(0.0, 1)] * 2, (
        "the warm-up, and a turn"
    )


def test_a_request_longer_than_the_context(small, tmp_path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text('{"prompt_tokens": 4090, "output_tokens": 7}\n')
    with pytest.raises(
        ValueError, match="line 1 has 4,090 tokens in and 7 out; the model's context is 4,096"
    ):
        next(throughput.bench_throughput("small", file))


def test_a_turn_has_the_memory_to_itself() -> None:
    """Old code: the engine of the turn before lived on, and on a GPU the next had a fifth of the memory."""
    living = weakref.WeakSet()

    class FakeServer:
        def __init__(self) -> None:
            assert not living
            living.add(self)
    one = throughput.Contestant(FakeServer)
    with replaced(throughput, replay=lambda server, trace: [], duration=lambda served: 1.0):
        one.serve([])
        one.serve([])
    assert len(one.rates) == 2 and len(living) == 1
