"""`plan memory` as it is typed; its reading of arguments, and what it prints."""

import json

import pytest

from aiinfra.__main__ import main
from aiinfra.checkpoint.huggingface_config import config_to_json
from aiinfra.perf.memory import predict_memory
from aiinfra.perf.sharding import Sharding
from tests.train.stories import tiny_config

import torch

SHAPE = tiny_config(hidden_size=256, head_dim=64, intermediate_size=512, num_hidden_layers=6)


@pytest.fixture
def plan(tmp_path, capsys):
    """Run `plan memory` on a small model's config; gives status, output and error."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config_to_json(SHAPE, torch.float32)))

    def ask(*words: str) -> tuple[int, str, str]:
        status = main(["plan", "memory", "--model", str(path), "--sequence", "128", *words])
        return status, *capsys.readouterr()
    return ask


def test_it_fits(plan) -> None:
    status, out, error = plan("--memory", "1GB", "--dtype", "float32")
    assert status == 0 and not error and "It fits" in out and "What would help" not in out
    assert "The largest batch that does: " in out and "on one device" in out


def test_it_does_not(plan) -> None:
    status, out, _ = plan("--memory", "120MB", "--dtype", "float32")
    assert status == 0 and "It does not fit" in out
    assert "The cheapest that does: 2 of 8 rows at once, 4 micro-batches." in out
    _, out, _ = plan("--memory", "2MB")
    assert "Not even one row does" in out and "Divide the matrices as well: --tp" in out


def test_everything_as_json(plan) -> None:
    _, out, _ = plan("--memory", "H100", "--json", "--fsdp", "4", "--recompute", "block", "--batch", "2")
    found = json.loads(out)
    want = predict_memory(SHAPE, [128] * 2, "block", narrow=True, sharding=Sharding(ranks=4, stage=3),
                          backend="triton")
    assert found["fits"] and found["peak"] == want.peak and found["remedies"] == []
    assert found["memory"] == {"name": "H100 SXM", "bytes": 80e9, "usable": 72e9}
    assert found["peak_moment"]["by_kind"] == want.highest.by_kind
    _, out, _ = plan("--memory", "30MB", "--json", "--dtype", "float32", "--reserve", "0")
    rungs = json.loads(out)["remedies"]
    assert [rung["fits"] for rung in rungs] == [rung["peak"] <= 30e6 for rung in rungs]


@pytest.mark.parametrize("words, said", [
    (["--memory", "H1000"], "Did you mean 'H100 SXM'?"),
    (["--recompute", "blocks"], "Did you mean 'block'?"),
    (["--fsdp", "4", "--zero", "1"], "--fsdp 4 divides everything, --zero 1 less"),
    (["--tp", "3"], "num_attention_heads=4 cannot be divided among 3"),
    (["--batch", "0"], "rows=0"),
    (["--reserve", "1"], "reserve=1; it must be at least 0 and below 1"),
    (["--dp", "0", "--fsdp", "2"], "--dp 0"),
    (["--dtype", "int7"], "dtype='int7' is not known"),
    (["--model", "llama-9b"], "no model 'llama-9b'"),
])
def test_an_error_is_one_line(words: list[str], said: str, plan) -> None:
    status, out, error = plan(*words)
    assert status == 1 and not out and error.count("\n") == 1 and said in error
