"""Folders and threads: what the environment says is followed, what is empty counts as unset, no home is
said."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from aiinfra import environment

ASK = "from aiinfra.environment import calm_threads; print(calm_threads())"
THREADS = dict.fromkeys(("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME"))


def said(code: str, **changes: str | None) -> str:
    env = environment.child_environment(**{**THREADS, **changes})
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.strip()


def test_idle_threads_sleep_and_the_setting_is_said():
    assert said(ASK).startswith("OpenMP: GOMP_SPINCOUNT=3000,")


def test_a_users_own_setting_is_left_alone():
    left = f"{ASK}; import os; print(os.environ.get('GOMP_SPINCOUNT'))"
    assert said(left, OMP_WAIT_POLICY="PASSIVE") == "OpenMP: OMP_WAIT_POLICY=PASSIVE\nNone"
    assert said(left, GOMP_SPINCOUNT="7") == "OpenMP: GOMP_SPINCOUNT=7\n7"


def test_after_torch_nothing_is_claimed():
    assert "imported before" in said("import torch; " + ASK)


@pytest.mark.parametrize("ours, system, folder", [("AIINFRA_CACHE", "XDG_CACHE_HOME", environment.cache_dir),
                                                  ("AIINFRA_DATA", "XDG_DATA_HOME", environment.data_dir)])
def test_folders_follow_the_settings(ours, system, folder, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(system, "/elsewhere")
    monkeypatch.setenv(ours, "/named")
    assert folder() == Path("/named")
    monkeypatch.setenv(ours, "")
    assert folder() == Path("/elsewhere/aiinfra"), "empty is unset, not the current folder"
    monkeypatch.setenv(system, "")
    assert folder().is_relative_to(tmp_path) and folder().name == "aiinfra"


def test_without_a_home_folder_the_remedy_is_said(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")
    monkeypatch.setattr(environment.Path, "home", no_home)
    for name in ("AIINFRA_DATA", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(OSError, match="no home folder.*Set AIINFRA_DATA"):
        environment.data_dir()


def test_huge_pages_keep_the_content() -> None:
    x = torch.arange(4 << 20, dtype=torch.float32)
    moved = environment.use_huge_pages(x.data_ptr(), x.nbytes)
    assert moved in (True, False) and torch.equal(x, torch.arange(4 << 20, dtype=torch.float32))
    assert not environment.use_huge_pages(x.data_ptr(), 1000), "less than a page: nothing to move"
    assert sys.platform == "linux" or not moved
