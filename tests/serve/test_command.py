"""`generate` under torchrun: one answer, from a model that is on all ranks."""

import re
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.program, pytest.mark.model]
GENERATE = ("generate", "--prompt", "-", "--max-tokens", "8", "--dtype", "float32")


def run(*before: str, more: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    command = [sys.executable, *before, "-m", "aiinfra", *GENERATE, *more]
    return subprocess.run(command, input="The sea is", capture_output=True, text=True, timeout=300)


def torchrun(ranks: int, *more: str) -> subprocess.CompletedProcess:
    before = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks))
    return run(*before, more=more)


def test_three_ranks_print_what_one_process_prints(real_model: str) -> None:
    found = torchrun(3)
    assert found.returncode == 0, found.stderr
    assert found.stdout == run().stdout != ""
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("ranks, more, why", [
    (2, (), "num_attention_heads=9 cannot be divided among 2 tensor-parallel ranks"),
    (1, ("--device", "tpu"), "--device tpu: the ranks that torchrun has started compute on cpu here"),
], ids=["ranks", "device"])
def test_what_cannot_be_is_refused(real_model: str, ranks: int, more: tuple[str, ...], why: str) -> None:
    found = torchrun(ranks, *more)
    assert found.returncode != 0 and found.stdout == ""
    assert re.search(f"^error: {why}", found.stderr, re.MULTILINE), found.stderr
