import pytest

from aiinfra.device import default_device
from aiinfra.perf import hardware
from aiinfra.perf.hardware import device_memory_bytes
from aiinfra.plan.budget import read_budget


@pytest.mark.parametrize("text, nbytes", [
    ("80e9", 80e9), ("80GB", 80e9), ("1.5 tb", 1.5e12), ("64GiB", 64 * 2**30), ("h100", 80e9), ("H20", 96e9),
    ("A100", 80e9), ("this machine", device_memory_bytes(default_device())),
])
def test_words_for_memory(text: str, nbytes: float) -> None:
    assert read_budget(text).nbytes == nbytes
    assert read_budget("H100").gpu


@pytest.mark.parametrize("text", ["H1000", "", "H", "-3GB", "0", "80 parsecs"])
def test_what_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="memory="):
        read_budget(text)


def test_a_containers_limit_counts(tmp_path, monkeypatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(hardware, "_LIMIT_FILES", (limit, tmp_path / "absent"))
    limit.write_text("max\n")
    whole = device_memory_bytes("cpu")
    limit.write_text("1000000\n")
    assert device_memory_bytes("cpu") == 1_000_000 < whole
