"""The command as a user meets it, and its model as others open it."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import transformers

from aiinfra import __main__ as command_line
from aiinfra import LLM, SamplingParams, load
from aiinfra.train.run import read_lines
from tests.train.stories import stories

pytestmark = [pytest.mark.model, pytest.mark.program]

SMALL = ("--layers", "1", "--width", "32", "--heads", "2", "--kv-heads", "1", "--feed-forward", "48",
         "--vocabulary", "300", "--length", "32", "--rows", "2", "--device", "cpu")


def command(data: Path, out: Path, *args: str) -> list[str]:
    return [sys.executable, "-m", "aiinfra", "train", "--data", str(data), "--out", str(out), *SMALL, *args]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    (folder / "stories.txt").write_text("\n\n".join(stories(120)))
    done = subprocess.run(command(folder / "stories.txt", folder / "out", "--steps", "40", "--seed", "3"),
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"the model: {folder / 'out' / 'export'}" in done.stdout and "loss" in done.stderr
    return folder


def test_transformers_opens_the_export(trained: Path) -> None:
    """Equal tokens and equal logits, by `load` and by transformers."""
    export = trained / "out" / "export"
    model, tokenizer = load(export, device="cpu")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(export).eval()
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(export)
    for text in ("The fox found", "  an empty café\n", "世界 1234"):
        ids = tokenizer.encode(text)
        assert ids == their_tokenizer(text).input_ids and tokenizer.decode(ids) == text
        with torch.inference_mode():
            expected = theirs(torch.tensor([ids])).logits
            assert (model(torch.tensor([ids])) - expected).abs().max() < 1e-4
    assert their_tokenizer.eos_token_id == model.config.eos_token_ids[0] == theirs.config.eos_token_id


def test_the_engine_serves_the_export(trained: Path) -> None:
    export = trained / "out" / "export"
    llm = LLM(str(export), device="cpu")
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    made = llm.generate("The fox found", params)[0].outputs[0]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(export).eval()
    ids = torch.tensor([llm.tokenizer.encode("The fox found")])
    expected = theirs.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12,
                               min_new_tokens=12, eos_token_id=None, pad_token_id=0)[0, ids.shape[1]:]
    assert list(made.token_ids) == expected.tolist()


def test_metrics_have_a_line_a_step_with_mfu(trained: Path) -> None:
    lines = read_lines(trained / "out" / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 41))
    assert all(0 < line["mfu"] < 1.5 and line["tokens_per_second"] > 0 for line in lines)
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_ctrl_c_saves_and_stops_and_resume_goes_on(trained: Path) -> None:
    out = trained / "stopped"
    args = command(trained / "stories.txt", out, "--steps", "4000", "--seed", "3", "--save-every", "4000")
    master, slave = pty.openpty()
    with subprocess.Popen(args, stdout=slave, stderr=slave) as process:
        os.close(slave)
        wait_until(lambda: len(read_lines(out / "metrics.jsonl")) > 3, master)
        process.send_signal(signal.SIGINT)
        wait_until(lambda: process.poll() is not None, master)
        assert process.returncode == 130
    lines = read_lines(out / "metrics.jsonl")
    assert [path.name for path in (out / "checkpoints").glob("step-*")] == [f"step-{len(lines):08}"]
    steps = str(len(lines) + 2)
    again = command(trained / "stories.txt", out, "--steps", steps, "--seed", "3", "--save-every", "4000",
                    "--resume")
    done = subprocess.run(again, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"going on after step {len(lines)}" in done.stdout and "steps was 4000" in done.stdout
    steps = [line["step"] for line in read_lines(out / "metrics.jsonl")]
    assert steps == list(range(1, len(lines) + 3))


def wait_until(reached, terminal: int, seconds: float = 60) -> None:
    """Read what the terminal shows until `reached()`; a process that cannot write would wait for ever."""
    os.set_blocking(terminal, False)
    end = time.time() + seconds
    while not reached():
        assert time.time() < end
        time.sleep(0.05)
        try:
            os.read(terminal, 65536)
        except OSError:
            pass


@pytest.mark.parametrize("content, args, message", [
    (b"", (), "no text in it"),
    (b"\x00\x01", (), "not a text file"),
    (b"Short.\n\nText.", (), "a row is 32 tokens and the whole text is"),
    (b"A text. " * 99, ("--recompute", "blok"), "Did you mean 'block'?"),
    (b"A text. " * 99, ("--heads", "3", "--kv-heads", "2"), "num_attention_heads=3 is not a multiple"),
])
def test_an_error_is_one_line(content: bytes, args: tuple, message: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "text.txt").write_bytes(content)
    line = command(tmp_path / "text.txt", tmp_path / "out", "--steps", "2", "--seed", "0", *args)
    assert command_line.main(line[3:]) == 1
    said = capsys.readouterr().err
    assert message in said and said.startswith("error: ") and said.count("\n") == 1
