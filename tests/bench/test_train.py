"""Both do the same work: the same losses, which are checked at every step."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from aiinfra.__main__ import main
from aiinfra.bench import train
from aiinfra.bench.train import bench_train, in_rows, random_texts
from aiinfra.model import ModelConfig

SMALL = ModelConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                    num_key_value_heads=2, head_dim=8, intermediate_size=48, tie_word_embeddings=True)


def test_rows_of_one_length_and_texts_of_many() -> None:
    even, share, ragged = bench_train(SMALL, steps=2, length=32, rows=3)
    assert even.target == "C7" and even.ratio == even.ours / even.peer
    for row in (even, ragged):
        assert row.peer_name.startswith("transformers 5") and "sdpa" in row.peer_name
        assert row.note.endswith("2 steps by turns, the same losses")
    assert 0 < share.ours < 150


def test_another_loss_is_no_comparison(monkeypatch) -> None:
    """As if transformers let texts see each other."""
    def across(batch, length):
        return replace(in_rows(batch, length), positions=None)
    monkeypatch.setattr(train, "in_rows", across)
    rows = bench_train(SMALL, steps=2, length=32, rows=3)
    next(rows)
    next(rows)
    with pytest.raises(RuntimeError, match="step 1: a loss of .*: not the same work"):
        next(rows)


def test_without_transformers(monkeypatch) -> None:
    monkeypatch.setattr(train, "transformers_model", lambda *_: None)
    even, _, _ = bench_train(SMALL, steps=1, length=32, rows=3)
    assert even.peer is None and "not installed" in even.note and even.ours > 0


def test_texts_fill_their_rows() -> None:
    lengths = train._text_lengths(3, 64, torch.Generator().manual_seed(0))
    batch = random_texts(lengths, 97, seed=1)
    rows = in_rows(batch, 64)
    assert batch.valid == 3 * 64 and rows.tokens.shape == (3, 64) and (rows.positions[:, 0] == 0).all()
    assert torch.equal(rows.targets.flatten()[:-1], rows.tokens.flatten()[1:])
    assert in_rows(random_texts([64, 64], 97, seed=1), 64).positions is None


def test_the_command(monkeypatch, tmp_path: Path, capsys) -> None:
    asked = {}

    def short(**options):
        asked.update(options)
        return bench_train(SMALL, steps=1, length=16, rows=2)
    monkeypatch.setattr(train, "bench_train", short)
    assert main(["bench", "train", "--steps", "5", "--save", str(tmp_path / "out.json")]) == 0
    assert asked == {"steps": 5, "length": 256, "seed": 0, "compiled": False}
    saved = json.loads((tmp_path / "out.json").read_text())
    assert saved["settings"]["command"] == "bench train" and len(saved["rows"]) == 3
    assert "C7" in capsys.readouterr().out
