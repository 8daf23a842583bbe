"""Programs of others that tests run unmodified: on the PATH, or each in an environment of its own below
$AIINFRA_PEERS. A test of one that is not there is skipped."""

import os
import shutil
from pathlib import Path

import pytest


def python_of(package: str) -> str:
    """The interpreter of the environment that has this package."""
    folder = os.environ.get("AIINFRA_PEERS")
    if folder is None or not (Path(folder) / package / "bin" / "python").exists():
        pytest.skip(f"{package} has no environment below AIINFRA_PEERS")
    return str(Path(folder) / package / "bin" / "python")


def program(name: str, package: str | None = None) -> str:
    """The path of a program; `package` is the folder of its environment, if that has another name."""
    found = shutil.which(name)
    if folder := os.environ.get("AIINFRA_PEERS"):
        inside = Path(folder) / (package or name) / "bin" / name
        found = str(inside) if inside.exists() else found
    if found is None:
        pytest.skip(f"{name} is not installed: pip install {package or name}, or set AIINFRA_PEERS")
    return found
