"""What users wait for, and what they notice of a long prompt."""

import re

import pytest
import torch

from aiinfra.bench import latency
from aiinfra.engine.runner import PagedCache
from aiinfra.model import Transformer


def test_latency(small) -> None:
    rows = list(latency.bench_latency("small", requests=6, rate=50.0, token_budget=64))
    names = [row.name for row in rows]
    assert names[:9] == [
        f"{wait}, P{q}" for wait in ("first token", "next token", "whole answer") for q in (50, 90, 99)
    ]
    assert all(row.unit == "s" and row.peer > 0 for row in rows)
    first, next_, whole = (rows[i].ours for i in (0, 3, 6))
    assert first + next_ < whole


def test_a_long_prompt_in_chunks(model: Transformer) -> None:
    gap, prompt = latency.bench_long_prompt(model, chunk_tokens=100)
    assert "are read in 20 steps, or in 1" in gap.note
    assert gap.ratio == gap.peer / gap.ours and prompt.ours > 0


@pytest.mark.parametrize("setting, reason", [
    ({"mode": "static"}, "9 requests do not run side by side with mode=static"),
    ({"mode": "one"}, "with mode=one, max_running=1"),
    ({"max_running": 8}, "9 requests .* max_running=8 .* Use mode=continuous, max_running=9"),
    ({"max_running": 4}, "max_running=4"),
    ({"cache_bytes": 128 * 16 * 256}, "128 blocks of cache"),
    ({"max_model_len": 1024}, "the context is 1,024"),
    ({"chunked": False}, "prompts are not chunked"),
])
def test_a_long_prompt_that_nobody_can_stand_beside(setting: dict, reason: str, model: Transformer) -> None:
    assert PagedCache.block_bytes(model.config, 16, torch.float32) == 16 * 256
    [row] = latency.bench_long_prompt(model, **setting)
    assert row.ours is None and re.search(f"^not measured: .*{reason}", row.note)
    assert " –  s " in re.sub(" +", "  ", str(row))


def test_a_static_batch_has_its_latency(small, monkeypatch) -> None:
    monkeypatch.setattr(latency, "static_servers", lambda *_: [])
    *waits, long_prompt = latency.bench_latency("small", requests=3, rate=100.0, mode="static")
    assert len(waits) == 9 and all(row.ours > 0 for row in waits) and long_prompt.ours is None


@pytest.mark.parametrize("setting", [
    {"max_model_len": 2048}, {"speculative": "prompt_lookup"}, {"overlap": True}, {"token_budget": 40},
])
def test_a_long_prompt_with_other_settings(setting: dict, model: Transformer) -> None:
    assert all(row.ours > 0 for row in latency.bench_long_prompt(model, **setting))


def test_bystanders_last_until_a_slow_prompt_is_read(model: Transformer, monkeypatch) -> None:
    monkeypatch.setattr(latency, "LONG_PROMPT", 100)
    gap, _ = latency.bench_long_prompt(model, token_budget=9, max_running=9, chunk_tokens=1)
    assert "read in 100 steps" in gap.note


def test_the_percentile_of_the_long_prompt_is_the_99th(model: Transformer, monkeypatch) -> None:
    gaps = iter(([0.01] * 50 + [0.5, 0.5], [0.25]))
    monkeypatch.setattr(latency, "_gaps_during_a_long_prompt", lambda *_: next(gaps))
    gap, prompt = latency.bench_long_prompt(model)
    assert (gap.ours, gap.peer) == (0.5, 0.25) and (prompt.ours, prompt.peer) == (pytest.approx(1.5), 0.25)
