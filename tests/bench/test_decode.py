"""One request: both sides do the same work, and nobody knows the prompt from a turn before."""

from types import SimpleNamespace

import pytest

from aiinfra.bench import decode
from aiinfra.bench.decode import Side
from aiinfra.engine.engine import Engine
from aiinfra.model import Transformer


def test_turns_refuse_sides_that_differ() -> None:
    def side(token: int, exact: bool, made: int = decode.NEW_TOKENS + 1) -> Side:
        return Side("x", lambda prompt: [token] * made, lambda prompt: [token], exact)
    decode.take_turns([side(1, True), side(1, True), side(2, False)], [1] * 512, 2)
    for wrong in (side(2, True), side(1, False, made=3)):
        with pytest.raises(RuntimeError, match="returned different tokens"):
            decode.take_turns([side(1, True), wrong], [1] * 512, 1)


def test_decode(model: Transformer, folder, monkeypatch) -> None:
    """Both of ours and transformers make the same tokens; through the engine no prompt is known from a turn
    before."""
    ran, step = [], Engine.step
    monkeypatch.setattr(Engine, "step", lambda engine: ran.append(step(engine)) or ran[-1])
    monkeypatch.setattr(decode, "resolve", lambda name: folder)
    tokenizer = SimpleNamespace(encode=lambda text: [5, 7, 11])
    monkeypatch.setattr(decode, "load", lambda path, quantize=None: (model, tokenizer))
    monkeypatch.setattr(decode, "read_bandwidth", lambda device: 1e9)
    rows = list(decode.bench_decode("small", turns=2))
    assert [(row.target, row.name) for row in rows] == [
        ("C1", "decode, 1 request"),
        ("", "   the same through the engine"),
        ("", "   share of read bandwidth"),
        ("C2", "decode, 1 request, int4"),
        ("C5", "prefill, 512 tokens"),
    ]
    assert (
        rows[1].peer == rows[0].ours and rows[1].peer_name == "dense cache" and rows[1].ours != rows[0].ours
    )
    whole = decode.PROMPT_TOKENS + decode.NEW_TOKENS
    tokens = sum(count for record in ran for *_, count in record.ran)
    assert tokens == whole + 512 + 2 * (whole + decode.PROMPT_TOKENS + 512)


def test_rates_leave_the_first_token_out() -> None:
    one = Side("x", None, None, True, {"decode": [2.5, 2.6, 2.5], "short": [0.5, 0.5, 9.0], "long": [4.0]})
    assert one.decode_rate == 64 / 2.0 and one.prefill_rate == 512 / 4
